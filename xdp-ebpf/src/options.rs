//! TCP options in the data path: common layouts are matched whole, all others are walked in the
//! kernel's own loop.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use xdp_common::wire::{
    checksum::Sum,
    tcp::Segment,
    tcp_options::{self, PackedOptions, Walk},
};

use crate::{packet::Packet, scratch::Scratch};

/// The segment's options, and their sum where it came for nothing.
#[inline(always)]
pub(crate) fn parse(
    packet: &Packet,
    segment: &Segment,
    scratch: &mut Scratch,
) -> (PackedOptions, Option<Sum>) {
    match tcp_options::common_layout(packet, segment) {
        Some((options, sum)) => (options, Some(sum)),
        None => {
            let walk = scratch.walk.write(Walk::new(segment));
            run(&mut State { packet, walk });
            (walk.options().into(), None)
        }
    }
}

struct State<'p> {
    packet: &'p Packet,
    walk: &'p mut Walk,
}

/// Walks to the end by `bpf_loop` (Linux 5.17), which has the body verified once.
#[inline(never)]
fn run(state: &mut State<'_>) {
    let body: unsafe extern "C" fn(u32, *mut State<'_>) -> i64 = step;
    // SAFETY: the callback has the type that the kernel calls, and its context outlives the call.
    // It cannot fail: flags are zero and the count is below the kernel's limit.
    unsafe {
        bpf_loop(
            Walk::STEPS_MAX,
            body as *mut c_void,
            (&raw mut *state).cast(),
            0,
        );
    }
}

unsafe extern "C" fn step(_: u32, state: *mut State<'_>) -> i64 {
    // SAFETY: the context that `run` passes.
    let State { packet, walk } = unsafe { &mut *state };
    i64::from(!walk.step(*packet))
}
