//! The packet that the kernel handed over: the only place that holds packet pointers.
//!
//! Every access goes through [`Packet::at`], whose comparison with the end of the packet is what
//! the verifier wants to see. What changes the packet's bounds consumes the [`Packet`], because the
//! verifier forgets all pointers then, and so the borrow checker must.

use aya_ebpf::{
    helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::{TcContext, XdpContext},
};
use xdp_common::wire::{Frame, FrameMut, OFFSET_MASK, Wire};
use zerocopy::{Immutable, IntoBytes};

/// Ethernet, IP and TCP headers with all their options, and some extension headers.
const HEADERS_LEN: usize = 160;

/// A packet, from the Ethernet header on.
pub(crate) struct Packet {
    data: usize,
    /// End of what can be read directly.
    end: usize,
    /// Length of the whole packet, of which TC may see no more than the headers directly.
    len: usize,
}

impl Packet {
    #[inline(always)]
    pub(crate) fn of_xdp(ctx: &XdpContext) -> Self {
        let (data, end) = (ctx.data(), ctx.data_end());
        Self {
            data,
            end,
            len: end - data,
        }
    }

    /// With the headers where they can be read directly, wherever the driver has put them.
    #[inline(always)]
    pub(crate) fn of_tc(ctx: &TcContext) -> Self {
        let len = ctx.len() as usize;
        if ctx.data_end() - ctx.data() < len.min(HEADERS_LEN) {
            // When memory is short this fails, and the packet is judged by what can be seen of it.
            let _ = ctx.pull_data(len.min(HEADERS_LEN) as u32);
        }
        Self {
            data: ctx.data(),
            end: ctx.data_end(),
            len,
        }
    }

    /// Cuts the packet to `len` bytes, which must not be more than it has.
    #[inline(always)]
    pub(crate) fn cut(self, ctx: &XdpContext, len: usize) -> Option<Self> {
        let excess = self.len as i64 - len as i64;
        if excess != 0 {
            // SAFETY: the context is the kernel's own; the helper checks the bounds.
            let failed = unsafe { bpf_xdp_adjust_tail(ctx.ctx, -excess as i32) };
            if failed != 0 {
                return None;
            }
        }
        Some(Self::of_xdp(ctx))
    }

    /// Takes `len` bytes away at the front, or adds room there if it is negative.
    #[inline(always)]
    pub(crate) fn behead(self, ctx: &XdpContext, len: i32) -> Option<Self> {
        if len == 0 {
            return Some(self);
        }
        // SAFETY: the context is the kernel's own; the helper checks the bounds.
        let failed = unsafe { bpf_xdp_adjust_head(ctx.ctx, len) };
        if failed != 0 {
            return None;
        }
        Some(Self::of_xdp(ctx))
    }

    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut u8> {
        let start = self.data + offset;
        if start + size_of::<T>() > self.end {
            return None;
        }
        Some(start as *mut u8)
    }
}

/// `offset` with its upper bits cut off where the verifier can see it. Left alone, the compiler
/// drops a mask that it can prove idle, and with it the verifier's only proof.
#[inline(always)]
pub(crate) fn bounded(mut offset: usize) -> usize {
    // SAFETY: the template moves a register to itself.
    unsafe {
        core::arch::asm!("{0} = {0}", inout(reg) offset, options(nomem, nostack, preserves_flags));
    }
    offset & OFFSET_MASK
}

impl Frame for Packet {
    #[inline(always)]
    fn get<T: Wire>(&self, offset: usize) -> Option<&T> {
        let at = self.at::<T>(offset)?;
        // SAFETY: `at` is inside the packet for all of `T`; `Wire` types accept any bytes at any
        // alignment; and writing needs `&mut self`.
        Some(unsafe { &*at.cast::<T>() })
    }

    #[inline(always)]
    fn len(&self) -> usize {
        self.len
    }
}

impl FrameMut for Packet {
    #[inline(always)]
    fn put<T: IntoBytes + Immutable>(&mut self, offset: usize, value: &T) -> Option<()> {
        let at = self.at::<T>(offset)?;
        // SAFETY: `at` is inside the packet, `value` is not (it is borrowed, and nothing borrows
        // from the packet while `self` is borrowed mutably), and `T` has no padding.
        unsafe { at.copy_from_nonoverlapping((&raw const *value).cast(), size_of::<T>()) };
        Some(())
    }
}
