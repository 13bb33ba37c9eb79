//! Counters: per CPU, by interface and by service.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use xdp_common::abi::{COUNTERS, Counters, IFACES_MAX, SERVICES_MAX, iface_slot};

#[map]
static IFACE_STATS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(IFACES_MAX, 0);

#[map]
static SERVICE_STATS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(SERVICES_MAX, 0);

/// Counts a packet of the interface.
#[inline(always)]
pub(crate) fn count_iface(ifindex: u32, slot: usize) {
    count(&IFACE_STATS, iface_slot(ifindex), slot);
}

/// Counts a packet of the service.
#[inline(always)]
pub(crate) fn count_service(id: u16, slot: usize) {
    count(&SERVICE_STATS, u32::from(id), slot);
}

#[inline(always)]
fn count(map: &PerCpuArray<Counters>, index: u32, slot: usize) {
    if let Some(counters) = map.get_ptr_mut(index) {
        // SAFETY: the pointer is this CPU's element, and one packet is judged at a time on a CPU:
        // XDP and TC programs run with bottom halves disabled and do not interrupt each other.
        unsafe { (*counters).packets[slot & (COUNTERS - 1)] += 1 };
    }
}
