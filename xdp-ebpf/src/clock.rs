//! The clock of our timestamps.

use aya_ebpf::{Global, helpers::generated::bpf_jiffies64};
use xdp_common::cookie::Cookie;

/// Milliseconds per jiffy, so that our timestamps tick like the kernel's (RFC 7323 5.4: 1 ms).
#[unsafe(no_mangle)]
static MS_PER_JIFFY: Global<u32> = Global::new(1);

/// What a connection's timestamp option says now: milliseconds, with the connection's own offset,
/// even.
#[inline(always)]
pub(crate) fn timestamp(cookie: &Cookie) -> u32 {
    (milliseconds() & !1).wrapping_add(cookie.timestamp_offset)
}

/// Milliseconds since an arbitrary moment, wrapping.
#[inline(always)]
pub(crate) fn milliseconds() -> u32 {
    jiffies().wrapping_mul(MS_PER_JIFFY.load())
}

/// The kernel's tick counter, its low half.
#[inline(always)]
pub(crate) fn jiffies() -> u32 {
    // SAFETY: no arguments.
    (unsafe { bpf_jiffies64() }) as u32
}
