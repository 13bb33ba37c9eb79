//! Which connections may be in TIME_WAIT.
//!
//! A client that reuses its port at once after the server closed meets the server's TIME_WAIT
//! socket, and only that socket can judge the new SYN (RFC 6191): answered with a cookie, the
//! client's ACK would go to the old socket and the connection would hang. Asking for a socket at
//! every SYN would double the cost of a flood, so the client's last FIN leaves a mark here, and
//! only a SYN that meets a fresh mark asks.

use aya_ebpf::{macros::map, maps::Array};
use xdp_common::{
    abi::{CLOSING_LINES, CLOSING_TICK_S, CLOSING_TICKS_MAX, Control, Marks},
    tuple::Tuple,
};

use crate::marks;

#[map]
static CLOSING: Array<Marks> = Array::with_max_entries(CLOSING_LINES, 0);

/// Leaves a mark for a connection that will be in TIME_WAIT.
#[inline(always)]
pub(crate) fn mark(control: &Control, tuple: &Tuple) {
    marks::set(&CLOSING, CLOSING_LINES, tuple, now(control));
}

/// Whether the tuple's last connection may be in TIME_WAIT. At first, everything may: what closed
/// before the data path was there left no mark.
#[inline(always)]
pub(crate) fn is_marked(control: &Control, tuple: &Tuple) -> bool {
    control.clock_s <= CLOSING_TICK_S * u32::from(CLOSING_TICKS_MAX)
        || marks::is_fresh(
            &CLOSING,
            CLOSING_LINES,
            tuple,
            now(control),
            CLOSING_TICKS_MAX,
        )
}

#[inline(always)]
const fn now(control: &Control) -> u8 {
    (control.clock_s / CLOSING_TICK_S) as u8
}
