//! The index of the flow table: where a connection is looked up, by either side.
//!
//! A bucket has eight slots of four bytes. A connection has two entries, one for each side, and
//! there is a bucket for every connection that the table holds, so that a bucket holds two entries
//! on average. One that finds its bucket full goes to the bucket's neighbour, which shares its cache
//! line; only a full bucket is ever looked behind. With all connections there, about one in a
//! million finds no place.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::tuple::Addr;

/// Entries of a bucket.
pub const BUCKET_SLOTS: usize = 8;

/// Bits of a slot that hold the number of the flow; the rest is a tag of the key's hash.
pub const FLOW_BITS: u32 = 24;

/// Flows that a table can hold, flow 0 being none: its number is the empty slot.
pub const FLOWS_MAX: u32 = 1 << FLOW_BITS;

/// One bucket: slots are 0 if empty, else a tag and the number of a flow. An empty slot may stand
/// before a full one.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Bucket {
    /// The slots.
    pub slots: [u32; BUCKET_SLOTS],
}

/// One side of a connection, as the index knows it. Both sides share one table; the target's has
/// the upper bit of `place` set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SideKey {
    /// The client's address, or the one that levee uses towards the target.
    pub addr: Addr,
    /// Its port, host order.
    pub port: u16,
    /// Id of the service, or slot of the target with [`TARGET_SIDE`].
    pub place: u16,
}

/// Set in [`SideKey::place`] of a target's side.
pub const TARGET_SIDE: u16 = 1 << 15;

impl SideKey {
    /// The client's side of a connection with a service.
    #[inline(always)]
    #[must_use]
    pub const fn client(addr: Addr, port: u16, service: u16) -> Self {
        Self {
            addr,
            port,
            place: service,
        }
    }

    /// The target's side: address and port that levee uses towards the target.
    #[inline(always)]
    #[must_use]
    pub const fn target(addr: Addr, port: u16, target: u16) -> Self {
        Self {
            addr,
            port,
            place: target | TARGET_SIDE,
        }
    }

    /// Where it is in a table with `mask + 1` buckets. `seed` is secret: a client that could choose
    /// its ports to meet in one bucket could keep others out.
    #[inline(always)]
    #[must_use]
    pub const fn place_in(self, seed: u64, mask: u32) -> Place {
        const K1: u64 = 0x9e6c_63d0_876a_3f6b;
        const K2: u64 = 0xd6e8_feb8_6659_fd93;
        let low = self.addr.lo ^ ((self.port as u64) << 16 | self.place as u64);
        let mixed = (self.addr.hi ^ seed).wrapping_mul(K1) ^ low;
        let mixed = (mixed ^ mixed >> 32).wrapping_mul(K2) ^ seed;
        let mixed = (mixed ^ mixed >> 29).wrapping_mul(K1);
        let tag = (mixed >> 32) as u32 & !(FLOWS_MAX - 1);
        Place {
            bucket: (mixed >> 16) as u32 & mask,
            tag,
        }
    }
}

/// Where an entry of the index is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Number of the bucket.
    pub bucket: u32,
    /// The upper eight bits of the slot; the others are zero.
    pub tag: u32,
}

impl Place {
    /// The bucket where entries are that found no room in the first.
    #[inline(always)]
    #[must_use]
    pub const fn neighbour(self) -> u32 {
        self.bucket ^ 1
    }

    /// A slot for this flow.
    #[inline(always)]
    #[must_use]
    pub const fn slot(self, flow: u32) -> u32 {
        self.tag | flow & (FLOWS_MAX - 1)
    }

    /// The flow that a slot holds, if it can be this entry's: the key is still to be compared.
    #[inline(always)]
    #[must_use]
    pub const fn candidate(self, slot: u32) -> Option<u32> {
        let flow = slot ^ self.tag;
        if flow != 0 && flow < FLOWS_MAX && slot & (FLOWS_MAX - 1) != 0 {
            Some(flow)
        } else {
            None
        }
    }
}

/// Buckets of a table for `flows` connections: a power of two.
#[must_use]
pub const fn buckets(flows: u32) -> u32 {
    let flows = if flows < 2 { 2 } else { flows };
    flows.next_power_of_two()
}

const _: () = assert!(size_of::<Bucket>() == 32);

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> SideKey {
        let addr = Addr::v4(number.to_be_bytes());
        SideKey::client(addr, (number % 50_000) as u16, 3)
    }

    #[test]
    fn a_slot_is_a_candidate_only_for_its_tag_and_when_taken() {
        let place = key(1).place_in(7, 1023);
        assert_eq!(place.candidate(place.slot(5)), Some(5));
        assert_eq!(place.candidate(0), None, "empty");
        assert_eq!(place.candidate(place.tag), None, "flow 0 is none");
        assert_eq!(place.candidate(place.slot(5) ^ 1 << FLOW_BITS), None);
    }

    #[test]
    fn both_sides_of_one_address_are_different_entries() {
        let addr = Addr::v4([192, 0, 2, 1]);
        let client = SideKey::client(addr, 1000, 3).place_in(1, u32::MAX);
        let target = SideKey::target(addr, 1000, 3).place_in(1, u32::MAX);
        assert_ne!(client, target);
    }

    /// What the bounds of the table are based on: entries spread like random ones.
    #[test]
    fn a_full_table_overflows_hardly_anywhere() {
        const FLOWS: u32 = 1 << 16;
        for seed in [0, 0x0123_4567_89ab_cdef, u64::MAX] {
            let mask = buckets(FLOWS) - 1;
            let mut filled = vec![0_u8; mask as usize + 1];
            let mut refused = 0;
            // Consecutive addresses and ports: what real clients look like.
            for number in 0..2 * FLOWS {
                let place = key(0x0a00_0000 + number).place_in(seed, mask);
                let bucket = [place.bucket, place.neighbour()]
                    .into_iter()
                    .find(|bucket| usize::from(filled[*bucket as usize]) < BUCKET_SLOTS);
                match bucket {
                    Some(bucket) => filled[bucket as usize] += 1,
                    None => refused += 1,
                }
            }
            let full = filled.iter().filter(|n| usize::from(**n) == BUCKET_SLOTS);
            assert!(full.count() < (FLOWS / 500) as usize, "seed {seed:x}");
            assert_eq!(refused, 0, "seed {seed:x}");
        }
    }
}
