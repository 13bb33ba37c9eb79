//! The index of a table: entries in, out, and found, by the rules of
//! [`xdp_common::splice::index`].
//!
//! Readers in the data path look into an entry's bucket, and only if that is full into its
//! neighbour. So a slot that becomes free in a full bucket is filled with an entry that had to go to
//! the neighbour, if there is one: it is written to its new place before it leaves the old one. A
//! reader that looks into both in between misses it, for nanoseconds; TCP repairs that.

use std::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

use xdp_common::splice::index::{BUCKET_SLOTS, FLOWS_MAX, Place, SideKey, TARGET_SIDE};

use super::{
    cells,
    memory::{Cells, Memory},
};

/// Where entries are in the index: chosen once for a table's life.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) seed: u64,
    /// Buckets less one.
    pub(super) mask: u32,
}

/// The index of one table.
pub(super) struct Index<'a> {
    pub(super) flows: &'a [Cells],
    slots: &'a [AtomicU32],
    layout: Layout,
}

/// Both buckets that an entry may be in are full.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

impl<'a> Index<'a> {
    pub(super) fn new(memory: &'a impl Memory, layout: Layout) -> Self {
        Self {
            flows: memory.flows(),
            slots: memory.slots(),
            layout,
        }
    }

    /// Where an entry belongs.
    pub(super) const fn place(&self, key: SideKey) -> Place {
        key.place_in(self.layout.seed, self.layout.mask)
    }

    /// The slots of a bucket.
    pub(super) fn bucket(&self, bucket: u32) -> &'a [AtomicU32] {
        let start = bucket as usize * BUCKET_SLOTS;
        &self.slots[start..start + BUCKET_SLOTS]
    }

    /// The number of the flow that has this side.
    pub(super) fn find(&self, key: SideKey) -> Option<u32> {
        let place = self.place(key);
        for bucket in [place.bucket, place.neighbour()] {
            let mut full = true;
            for slot in self.bucket(bucket) {
                let value = slot.load(Acquire);
                full &= value != 0;
                let candidate = place.candidate(value);
                if let Some(flow) = candidate.filter(|&flow| self.has_side(flow, key)) {
                    return Some(flow);
                }
            }
            if !full {
                return None;
            }
        }
        None
    }

    fn has_side(&self, flow: u32, key: SideKey) -> bool {
        let side = usize::from(key.place & TARGET_SIDE != 0);
        let cells = self.flows.get(flow as usize);
        cells.is_some_and(|cells| cells::keys(cells)[side] == key)
    }

    /// Enters a flow under one side.
    pub(super) fn insert(&self, key: SideKey, flow: u32) -> Result<(), NoRoom> {
        let place = self.place(key);
        let slots = [place.bucket, place.neighbour()].map(|bucket| self.bucket(bucket));
        let mut slots = slots.into_iter().flatten();
        let free = slots.find(|slot| slot.load(Relaxed) == 0).ok_or(NoRoom)?;
        free.store(place.slot(flow), Release);
        Ok(())
    }

    /// Takes out a flow's entry for one side.
    pub(super) fn remove(&self, key: SideKey, flow: u32) {
        let place = self.place(key);
        for bucket in [place.bucket, place.neighbour()] {
            let slots = self.bucket(bucket);
            let value = place.slot(flow);
            if let Some(slot) = slots.iter().find(|slot| slot.load(Relaxed) == value) {
                self.vacate(bucket, slot);
                return;
            }
        }
    }

    /// Empties a slot of a bucket.
    pub(super) fn vacate(&self, bucket: u32, slot: &AtomicU32) {
        let full = self.bucket(bucket).iter().all(|s| s.load(Relaxed) != 0);
        let outside = full.then(|| self.overflowed(bucket)).flatten();
        let Some(outside) = outside else {
            slot.store(0, Release);
            return;
        };
        slot.store(outside.load(Relaxed), Release);
        outside.store(0, Release);
    }

    /// A slot of the neighbour that holds an entry of this bucket.
    fn overflowed(&self, bucket: u32) -> Option<&'a AtomicU32> {
        let neighbour = Place { bucket, tag: 0 }.neighbour();
        let at_home = |value: u32| {
            let mut slots = self.bucket(bucket).iter();
            slots.any(|slot| slot.load(Relaxed) == value)
        };
        self.bucket(neighbour).iter().find(|slot| {
            let value = slot.load(Relaxed);
            // If both sides of a flow have the same tag and neighbouring buckets, their entries look
            // alike: one that is in this bucket too belongs to the other side.
            self.homes(value).contains(&Some(bucket)) && !at_home(value)
        })
    }

    /// The buckets that a slot's content belongs into, if it can be an entry for the flow's client's
    /// side, and for its target's side.
    pub(super) fn homes(&self, value: u32) -> [Option<u32>; 2] {
        let flow = value & (FLOWS_MAX - 1);
        let Some(cells) = self.flows.get(flow as usize).filter(|_| flow != 0) else {
            return [None; 2];
        };
        cells::keys(cells).map(|key| {
            let place = self.place(key);
            (place.slot(flow) == value).then_some(place.bucket)
        })
    }
}
