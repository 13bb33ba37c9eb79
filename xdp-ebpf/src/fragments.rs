//! Fragments of segments to addresses that have a service.
//!
//! Only the first fragment has the ports and can be judged. When it passes, its datagram is noted
//! here, and the later ones follow it; all others are dropped. What is left of a flood of fragments
//! are first ones to ports that are no service, which the kernel would have had to take anyway.

use aya_ebpf::{macros::map, maps::LruHashMap};
use xdp_common::{
    abi::{FRAGMENTS_MAX, FragmentKey},
    wire::Datagram,
};

#[map]
static FRAGMENTS: LruHashMap<FragmentKey, u32> = LruHashMap::with_max_entries(FRAGMENTS_MAX, 0);

/// Lets the later fragments of a datagram pass whose first one did.
#[inline(always)]
pub(crate) fn expect(datagram: &Datagram, id: u32) {
    // An insert into an LRU map fails only for lack of memory for a moment. The later fragments
    // are then dropped and counted, and the sender retransmits.
    let _ = FRAGMENTS.insert(key(datagram, id), 0u32, 0);
}

/// Whether the first fragment of the datagram passed.
#[inline(always)]
pub(crate) fn is_expected(datagram: &Datagram, id: u32) -> bool {
    FRAGMENTS.get_ptr(key(datagram, id)).is_some()
}

#[inline(always)]
fn key(datagram: &Datagram, id: u32) -> FragmentKey {
    FragmentKey {
        src: datagram.src,
        dst: datagram.dst,
        id,
        reserved: 0,
    }
}
