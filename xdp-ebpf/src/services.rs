//! Which addresses and ports are protected.
//!
//! A hash table in an array: an array lookup is inlined by the kernel and costs 2.6 ns where a hash
//! map costs 46. The controller builds a generation off-line, writes the idle one and flips.

use aya_ebpf::{macros::map, maps::Array};
use xdp_common::{
    abi::{BUCKETS, Control, KIND_SERVICE, KIND_TARGET, ServiceBucket, ServiceEntry},
    service,
    tuple::Addr,
};

#[map]
static SERVICES: Array<ServiceBucket> = Array::with_max_entries(2 * BUCKETS, 0);

/// The service at `(addr, port)`. A packet may well be for port 0, where address entries are kept.
#[inline(always)]
pub(crate) fn find(control: &Control, addr: Addr, port: u16) -> Option<&'static ServiceEntry> {
    lookup(control, addr, port).filter(|entry| entry.kind == KIND_SERVICE)
}

/// The target at `(addr, port)`.
#[inline(always)]
pub(crate) fn target(control: &Control, addr: Addr, port: u16) -> Option<&'static ServiceEntry> {
    lookup(control, addr, port).filter(|entry| entry.kind == KIND_TARGET)
}

/// Whether `addr` has any service. Address entries have port 0.
#[inline(always)]
pub(crate) fn protects(control: &Control, addr: Addr) -> bool {
    lookup(control, addr, 0).is_some()
}

#[inline(always)]
fn lookup(control: &Control, addr: Addr, port: u16) -> Option<&'static ServiceEntry> {
    let generation = control.generation & 1;
    let bucket = service::bucket(control.seeds[generation as usize], addr, port);
    service::find(SERVICES.get(generation * BUCKETS + bucket)?, addr, port)
}
