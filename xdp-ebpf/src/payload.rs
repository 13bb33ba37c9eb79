//! The sum of what follows a SYN's TCP header, for the few SYNs with payload (RFC 7413) or with
//! options in an unusual order.

use core::mem::MaybeUninit;

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use xdp_common::wire::{Frame, checksum::Sum};

use crate::{
    loops::{self, Steps},
    packet::{self, Packet},
};

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
    loops::run(&mut State {
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

/// Adds one word at a time; stops before the last incomplete one.
impl Steps for State<'_> {
    const MAX: u32 = LEN_MAX as u32 / 4;

    #[inline(always)]
    fn step(&mut self) -> bool {
        let Self { ctx, progress } = self;
        if progress.at + 4 > progress.end {
            return false;
        }
        let packet = Packet::of_xdp(&XdpContext::new(*ctx));
        let Some(word) = packet.get(packet::bounded(progress.at)) else {
            return false;
        };
        progress.sum = progress.sum.with_word(u32::from_ne_bytes(*word));
        progress.at += 4;
        true
    }
}
