//! Which connections may be in TIME_WAIT.
//!
//! A client that reuses its port at once after the server closed meets the server's TIME_WAIT
//! socket, and only that socket can judge the new SYN (RFC 6191): answered with a cookie, the
//! client's ACK would go to the old socket and the connection would hang. Asking for a socket at
//! every SYN would double the cost of a flood, so the client's last FIN leaves a mark here, and
//! only a SYN that meets a fresh mark asks. Whatever hashes alike shares a mark, which costs a lookup
//! and changes nothing.

use aya_ebpf::{macros::map, maps::Array};
use xdp_common::{
    abi::{CLOSING_LINES, CLOSING_TICK_S, CLOSING_TICKS_MAX, ClosingLine, Control},
    tuple::Tuple,
};

#[map]
static CLOSING: Array<ClosingLine> = Array::with_max_entries(CLOSING_LINES, 0);

/// Leaves a mark for a connection that will be in TIME_WAIT.
#[inline(always)]
pub(crate) fn mark(control: &Control, tuple: &Tuple) {
    if let Some(mark) = slot(tuple) {
        // SAFETY: a byte of a live map element. Racing writers write the same few values.
        unsafe { mark.write_volatile(now(control)) };
    }
}

/// Whether the tuple's last connection may be in TIME_WAIT.
#[inline(always)]
pub(crate) fn is_marked(control: &Control, tuple: &Tuple) -> bool {
    // SAFETY: a byte of a live map element.
    let mark = slot(tuple).map_or(0, |mark| unsafe { mark.read_volatile() });
    mark != 0 && now(control).wrapping_sub(mark) <= CLOSING_TICKS_MAX
}

#[inline(always)]
fn slot(tuple: &Tuple) -> Option<*mut u8> {
    let hash = tuple.hash() >> 32;
    let line = CLOSING.get_ptr_mut((hash as u32 >> 6) & (CLOSING_LINES - 1))?;
    // SAFETY: the index is masked to the line's 64 marks.
    Some(unsafe {
        (&raw mut (*line).marks)
            .cast::<u8>()
            .add(hash as usize & 63)
    })
}

/// The clock in ticks, never 0, which means "no mark": a mark set in tick 0 is one tick off.
#[inline(always)]
const fn now(control: &Control) -> u8 {
    let tick = (control.clock_s / CLOSING_TICK_S) as u8;
    if tick == 0 { 1 } else { tick }
}
