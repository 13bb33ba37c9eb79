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
    abi::{ADMITTED_MAX, EARLY_SLOTS, EARLY_TICKS_MAX, TupleKey},
    tuple::Tuple,
};

use crate::clock;

/// Who returned a valid cookie: 24 bits of the tuple's hash and the tick of when.
#[map]
static EARLY: Array<u32> = Array::with_max_entries(EARLY_SLOTS, 0);

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
    let hash = tuple.hash();
    if let Some(slot) = EARLY.get_ptr_mut(index(hash)) {
        // SAFETY: an aligned word of a live map element.
        unsafe { slot.write_volatile(tag(hash) | u32::from(tick())) };
    }
}

/// XDP: whether the tuple's cookie was valid within the last second. A stranger is taken for it
/// once in 2^24 times at most, harmlessly: the kernel answers it with RST.
#[inline(always)]
pub(crate) fn is_expected(tuple: &Tuple) -> bool {
    let hash = tuple.hash();
    let Some(slot) = EARLY.get_ptr(index(hash)) else {
        return false;
    };
    // SAFETY: an aligned word of a live map element.
    let slot = unsafe { slot.read_volatile() };
    slot & !0xff == tag(hash) && tick().wrapping_sub(slot as u8) <= EARLY_TICKS_MAX
}

#[inline(always)]
const fn index(hash: u64) -> u32 {
    (hash >> (u64::BITS - EARLY_SLOTS.trailing_zeros())) as u32 & (EARLY_SLOTS - 1)
}

/// Bits of the hash that the index does not use. Zero, as in an empty slot, is as good as any.
#[inline(always)]
const fn tag(hash: u64) -> u32 {
    (hash >> 15) as u32 & !0xff
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

/// Ticks of 256 ms, wrapping after a minute: a slot a minute old counts again, harmlessly.
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
