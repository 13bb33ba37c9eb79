//! IPv6 datagrams in the data path: extension headers are followed in the kernel's own loop.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use xdp_common::wire::{
    Datagram, NotDatagram,
    ipv6::{self, Chain, EXTENSIONS_MAX, Parsed},
};

use crate::{
    packet::{self, Packet},
    scratch::Scratch,
};

/// Judges the IPv6 header at `l3` and all that follows it up to TCP.
#[inline(always)]
pub(crate) fn parse(
    packet: &Packet,
    l3: usize,
    scratch: &mut Scratch,
) -> Result<Datagram, NotDatagram> {
    match ipv6::parse(packet, l3)? {
        Parsed::Datagram(datagram) => Ok(datagram),
        Parsed::Chain(chain) => {
            let chain = scratch.chain.write(chain);
            follow(&mut State { packet, chain });
            let mut datagram = chain.finish()?;
            datagram.l4 = packet::bounded(datagram.l4);
            Ok(datagram)
        }
    }
}

struct State<'p> {
    packet: &'p Packet,
    chain: &'p mut Chain,
}

/// `bpf_loop` (Linux 5.17): the verifier would follow a plain loop, and all that comes after it,
/// once for every possible number of headers.
#[inline(never)]
fn follow(state: &mut State<'_>) {
    let body: unsafe extern "C" fn(u32, *mut State<'_>) -> i64 = step;
    // SAFETY: the callback has the type that the kernel calls, and its context outlives the call.
    // It cannot fail: flags are zero and the count is below the kernel's limit.
    unsafe {
        bpf_loop(
            EXTENSIONS_MAX as u32,
            body as *mut c_void,
            (&raw mut *state).cast(),
            0,
        );
    }
}

unsafe extern "C" fn step(_: u32, state: *mut State<'_>) -> i64 {
    // SAFETY: the context that `follow` passes.
    let State { packet, chain } = unsafe { &mut *state };
    i64::from(!chain.step(*packet))
}
