//! Tables of one byte per hash value that say when something was last seen.
//!
//! Whatever hashes alike shares a mark. A stale or foreign mark must therefore cost time at most,
//! never a connection.

use aya_ebpf::maps::Array;
use xdp_common::{abi::Marks, tuple::Tuple};

/// Sets the tuple's mark to `tick`.
#[inline(always)]
pub(crate) fn set(table: &Array<Marks>, lines: u32, tuple: &Tuple, tick: u8) {
    if let Some(mark) = slot(table, lines, tuple) {
        // SAFETY: a byte of a live map element. Racing writers write the same few values.
        unsafe { mark.write_volatile(nonzero(tick)) };
    }
}

/// Whether the tuple's mark was set no more than `ticks_max` ticks before `tick`.
#[inline(always)]
pub(crate) fn is_fresh(
    table: &Array<Marks>,
    lines: u32,
    tuple: &Tuple,
    tick: u8,
    ticks_max: u8,
) -> bool {
    // SAFETY: a byte of a live map element.
    let mark = slot(table, lines, tuple).map_or(0, |mark| unsafe { mark.read_volatile() });
    mark != 0 && nonzero(tick).wrapping_sub(mark) <= ticks_max
}

#[inline(always)]
fn slot(table: &Array<Marks>, lines: u32, tuple: &Tuple) -> Option<*mut u8> {
    let hash = tuple.hash() >> 32;
    let line = table.get_ptr_mut((hash as u32 >> 6) & (lines - 1))?;
    // SAFETY: the index is masked to the line's 64 marks.
    Some(unsafe {
        (&raw mut (*line).ticks)
            .cast::<u8>()
            .add(hash as usize & 63)
    })
}

/// 0 stands for no mark; a mark set in tick 0 is one tick off.
#[inline(always)]
const fn nonzero(tick: u8) -> u8 {
    if tick == 0 { 1 } else { tick }
}
