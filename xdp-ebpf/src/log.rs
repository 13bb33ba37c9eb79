//! Rare events for the controller's log, at most one of a kind per second.

use aya_ebpf::{EbpfContext, macros::map, maps::Array};
use aya_log_ebpf::{debug, info, warn};
use xdp_common::{abi::Control, tuple::Addr, verdict::Verdict};

use crate::control;

/// When an event of a kind was last logged, in seconds of the controller's clock.
#[map]
static LOGGED: Array<u32> = Array::with_max_entries(3, 0);

const MALFORMED: u32 = 0;
const REFUSED: u32 = 1;
/// Holds the epoch that was last logged, not a time.
const EPOCH: u32 = 2;

/// Whether the value kept under `kind` differs from `value`, which then replaces it. Several CPUs
/// may say so at once: a few lines instead of one.
#[inline(always)]
fn is_new(kind: u32, value: u32) -> bool {
    let Some(last) = LOGGED.get_ptr_mut(kind) else {
        return false;
    };
    // SAFETY: an aligned word of a live map element.
    unsafe {
        let new = last.read_volatile() != value;
        if new {
            last.write_volatile(value);
        }
        new
    }
}

/// A sample of the malformed packets that are dropped.
#[inline(always)]
pub(crate) fn malformed(ctx: &impl EbpfContext, verdict: Verdict, dst: Addr) {
    let Some(control) = control::get() else {
        return;
    };
    if is_new(MALFORMED, control.clock_s) {
        let reason = verdict.label();
        info!(
            ctx,
            "dropped a malformed packet to {:i}: {}",
            octets(dst),
            reason
        );
    }
}

/// The kernel made no socket for a client with a valid cookie.
#[inline(always)]
pub(crate) fn refused(ctx: &impl EbpfContext, control: &Control, dst: Addr, port: u16, error: i32) {
    if is_new(REFUSED, control.clock_s) {
        warn!(
            ctx,
            "the kernel made no socket for a proven client of [{:i}]:{} (error {})",
            octets(dst),
            port,
            error
        );
    }
}

/// Clients return cookies made with a new key.
#[inline(always)]
pub(crate) fn epoch(ctx: &impl EbpfContext, control: &Control) {
    if is_new(EPOCH, control.epoch) {
        debug!(ctx, "cookies are checked in key epoch {}", control.epoch);
    }
}

#[inline(always)]
fn octets(addr: Addr) -> [u8; 16] {
    let value = u128::from(addr.hi) | u128::from(addr.lo) << 64;
    value.to_le_bytes()
}
