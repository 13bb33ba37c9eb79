//! Clients that have returned a valid cookie just now and have no socket yet.
//!
//! The kernel takes packets in batches: XDP, and for a list of packets TC too, has seen all of a
//! batch before the first of it is delivered. A client that sends data right behind its ACK has
//! several segments there before its socket exists.

use aya_ebpf::{
    macros::map,
    maps::{Array, LruHashMap},
};
use xdp_common::{
    abi::{ADMITTED_MAX, EARLY_LINES, EARLY_TICKS_MAX, Marks, TupleKey},
    tuple::Tuple,
};

use crate::{clock, marks};

#[map]
static EARLY: Array<Marks> = Array::with_max_entries(EARLY_LINES, 0);

/// When a tuple was handed to the kernel, in jiffies. Exact, because a segment that is taken for an
/// admitted client's is not admitted itself.
#[map]
static ADMITTED: LruHashMap<TupleKey, u32> = LruHashMap::with_max_entries(ADMITTED_MAX, 0);

/// How long a batch may be under way, jiffies. Longer than that, and a client whose socket the
/// kernel could not make would not be admitted by its next segment.
const BATCH_JIFFIES_MAX: u32 = 1;

/// XDP: the tuple's cookie was valid, so let what follows pass, whose acknowledgement number is a
/// cookie but whose sequence number has moved on.
#[inline(always)]
pub(crate) fn expect(tuple: &Tuple) {
    marks::set(&EARLY, EARLY_LINES, tuple, tick());
}

/// XDP: whether the tuple's cookie was valid within the last second. Passing a stranger is
/// harmless: the kernel answers it with RST.
#[inline(always)]
pub(crate) fn is_expected(tuple: &Tuple) -> bool {
    marks::is_fresh(&EARLY, EARLY_LINES, tuple, tick(), EARLY_TICKS_MAX)
}

/// TC: the kernel is about to make the tuple's socket.
#[inline(always)]
pub(crate) fn admitted(tuple: &Tuple) {
    // An insert into an LRU map fails only for lack of memory for a moment; at worst the kernel is
    // then asked twice, makes one socket, and the client retransmits its first data.
    let _ = ADMITTED.insert(key(tuple), clock::jiffies(), 0);
}

/// TC: whether the kernel is about to make the tuple's socket. A second request would be dropped by
/// the kernel together with its data; without one, the segment finds the first one's socket.
#[inline(always)]
pub(crate) fn is_admitted(tuple: &Tuple) -> bool {
    let Some(when) = ADMITTED.get_ptr(key(tuple)) else {
        return false;
    };
    // SAFETY: an aligned word of a map element, which is never freed, at worst reused.
    let when = unsafe { when.read_volatile() };
    clock::jiffies().wrapping_sub(when) <= BATCH_JIFFIES_MAX
}

/// Ticks of 256 ms, wrapping after a minute: a mark a minute old may count again, harmlessly.
#[inline(always)]
fn tick() -> u8 {
    (clock::milliseconds() >> 8) as u8
}

#[inline(always)]
const fn key(tuple: &Tuple) -> TupleKey {
    TupleKey {
        src: tuple.src,
        dst: tuple.dst,
        ports: tuple.ports(),
        reserved: 0,
    }
}
