//! The sum of what follows a SYN's TCP header, for the few SYNs with payload (RFC 7413) or with
//! options in an unusual order.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_loop, programs::XdpContext};
use xdp_common::wire::{Frame, checksum::Sum};

use crate::packet::{self, Packet};

/// Most that is summed, bytes: a page, more than any frame without fragments holds.
const LEN_MAX: usize = 4096;

/// Where the summing stands.
#[derive(Clone, Copy)]
pub(crate) struct Progress {
    at: usize,
    end: usize,
    sum: Sum,
}

struct State<'p> {
    ctx: *mut xdp_md,
    progress: &'p mut Progress,
}

/// The sum of the `len` bytes, at least one, at `offset`; `None` where the packet is shorter or
/// `len` more than [`LEN_MAX`].
#[inline(always)]
pub(crate) fn sum(
    ctx: &XdpContext,
    offset: usize,
    len: usize,
    progress: &mut MaybeUninit<Progress>,
) -> Option<Sum> {
    if len > LEN_MAX {
        return None;
    }
    let end = offset + len;
    let progress = progress.write(Progress {
        at: offset,
        end,
        sum: Sum::default(),
    });
    run(&mut State {
        ctx: ctx.ctx,
        progress,
    });
    let left = end - progress.at;
    if left == 0 {
        return Some(progress.sum);
    }
    // The last word of the segment ends in the bytes left over and begins in summed ones.
    let packet = Packet::of_xdp(ctx);
    let word = u32::from_le_bytes(*packet.get(packet::bounded(end - 4))?);
    Some(
        progress
            .sum
            .with_word((word >> (((4 - left as u32) * 8) & 31)).to_le()),
    )
}

/// Sums all whole words by `bpf_loop` (Linux 5.17), which has the body verified once.
#[inline(never)]
fn run(state: &mut State<'_>) {
    let body: unsafe extern "C" fn(u32, *mut State<'_>) -> i64 = step;
    // SAFETY: the callback has the type that the kernel calls, and its context outlives the call.
    // It cannot fail: flags are zero and the count is below the kernel's limit.
    unsafe {
        bpf_loop(
            LEN_MAX as u32 / 4,
            body as *mut c_void,
            (&raw mut *state).cast(),
            0,
        );
    }
}

/// Adds one word; stops before the last incomplete one.
unsafe extern "C" fn step(_: u32, state: *mut State<'_>) -> i64 {
    // SAFETY: the context that `run` passes.
    let State { ctx, progress } = unsafe { &mut *state };
    if progress.at + 4 > progress.end {
        return 1;
    }
    let packet = Packet::of_xdp(&XdpContext::new(*ctx));
    let Some(word) = packet.get(packet::bounded(progress.at)) else {
        return 1;
    };
    progress.sum = progress.sum.with_word(u32::from_ne_bytes(*word));
    progress.at += 4;
    0
}
