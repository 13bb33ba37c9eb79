//! Which connections may be in TIME_WAIT.
//!
//! A client that reuses its port at once after the server closed meets the server's TIME_WAIT
//! socket, and only that socket can judge the new SYN (RFC 6191): answered with a cookie, the
//! client's ACK would go to the old socket and the connection would hang. Asking for a socket at
//! every SYN would double the cost of a flood, so the client's last FIN leaves a mark here, and
//! only a SYN that meets a mark asks. Whatever hashes alike shares a mark, which costs a lookup
//! and changes nothing.

use aya_ebpf::{macros::map, maps::Array};
use xdp_common::{
    abi::{ClosingMarks, Control},
    closing::{GENERATIONS, Place, current, previous},
    tuple::Tuple,
};

#[map]
static CLOSING: Array<ClosingMarks> = Array::with_max_entries(GENERATIONS, 0);

/// Leaves a mark for a connection that will be in TIME_WAIT.
#[inline(always)]
pub(crate) fn mark(control: &Control, tuple: &Tuple) {
    let place = Place::new(tuple.hash());
    if let Some(word) = word(current(control.clock_s), place)
        // A retransmitted FIN need not take the cache line away from the other CPUs again.
        && read(word) & place.bit == 0
    {
        set(word, place.bit);
    }
}

/// Whether the tuple's last connection may be in TIME_WAIT.
#[inline(always)]
pub(crate) fn is_marked(control: &Control, tuple: &Tuple) -> bool {
    let place = Place::new(tuple.hash());
    let marks = |generation| word(generation, place).map_or(0, read);
    (marks(current(control.clock_s)) | marks(previous(control.clock_s))) & place.bit != 0
}

/// A word of a live map element, where it always is.
#[inline(always)]
fn word(generation: u32, place: Place) -> Option<*mut u64> {
    let marks = CLOSING.get_ptr_mut(generation)?;
    // SAFETY: the place is within the element.
    Some(unsafe { (&raw mut (*marks).words).cast::<u64>().add(place.word) })
}

/// What a [`word`] holds.
#[inline(always)]
fn read(word: *mut u64) -> u64 {
    // SAFETY: an aligned word of a live map element.
    unsafe { word.read_volatile() }
}

/// Sets a bit of a [`word`] whatever the other CPUs set meanwhile (`BPF_ATOMIC`, Linux 5.12): the
/// BPF target's `core` has no `fetch_or`.
#[inline(always)]
fn set(word: *mut u64, bit: u64) {
    // SAFETY: one atomic instruction on an aligned word of a live map element.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({word} + 0) |= {bit}",
            word = in(reg) word,
            bit = in(reg) bit,
            options(nostack, preserves_flags)
        );
    }
}
