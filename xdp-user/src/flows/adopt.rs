//! Taking over a table, from nobody or from a controller that has died at any point.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use xdp_common::splice::{
    flow::{STATE_FREE, STATE_OPEN},
    index::{BUCKET_SLOTS, FLOWS_MAX, buckets},
};

use super::{
    Counts, Memory, Table, Usage, cells,
    free::FreeNumbers,
    index::{Index, Layout},
    is_in_bounds,
};
use crate::engine::{
    Tick,
    handshake::effects::{FlowId, Flows as _},
};

/// What was found in a table that was taken over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adoption {
    /// Open flows, which go on.
    pub kept: u32,
    /// Pending flows, which were dropped: what was known of their handshakes is gone. The client's
    /// next segment starts another.
    pub pending: u32,
    /// Entries of the index that led nowhere, and were removed.
    pub entries: u32,
    /// Open flows that could not be found by both sides, and were dropped.
    pub lost: u32,
}

/// An entry of the index is for this side of that flow.
type Owner = (u32, usize);

impl<M: Memory> Table<M> {
    /// Takes over what is in `memory`; zeroes are an empty table. The data path may be running:
    /// open flows are found all the while. `seed` is the one with which the index was filled.
    ///
    /// # Panics
    /// Panics when the memory is not of a size that [`buckets`] allows.
    #[must_use]
    pub fn adopt(memory: M, seed: u64) -> (Self, Adoption) {
        let slots = memory.slots().len();
        let bucket_count = (slots / BUCKET_SLOTS) as u32;
        assert!(
            bucket_count >= 2
                && bucket_count.is_power_of_two()
                && slots.is_multiple_of(BUCKET_SLOTS),
            "{slots} slots: a table has a power of two of buckets, at least {}",
            buckets(0)
        );
        let end = memory.flows().len() as u32;
        assert!((1..=FLOWS_MAX).contains(&end), "room for {end} flows");
        let layout = Layout {
            seed,
            mask: bucket_count - 1,
        };
        let mut table = Self {
            memory,
            layout,
            free: FreeNumbers::new(Vec::new(), 1, end),
            now: Tick(0),
            clock_s: 0,
            counts: Counts::default(),
            usage: Arc::new(Usage::new()),
        };
        let mut found = Adoption::default();
        table.drop_pending(&mut found);
        let sides = clean(&table.index(), layout.mask, &mut found);
        table.drop_lost(&sides, &mut found);
        table.count_all(&mut found);
        (table, found)
    }

    /// Leaves no flow but open ones.
    fn drop_pending(&self, found: &mut Adoption) {
        for cells in &self.memory.flows()[1..] {
            let keep = match cells::state(cells) {
                STATE_FREE => continue,
                STATE_OPEN => is_in_bounds(&cells::load(cells)),
                _ => {
                    found.pending += 1;
                    false
                }
            };
            if !keep {
                cells::write_state(cells, STATE_FREE);
            }
        }
    }

    /// Closes flows that lack an entry in the index.
    fn drop_lost(&self, sides: &[u8], found: &mut Adoption) {
        let index = self.index();
        for (number, cells) in index.flows.iter().enumerate().skip(1) {
            if cells::state(cells) == STATE_OPEN && sides[number] != BOTH_SIDES {
                cells::write_state(cells, STATE_FREE);
                for key in cells::keys(cells) {
                    index.remove(key, number as u32);
                }
                found.lost += 1;
            }
        }
    }

    fn count_all(&mut self, found: &mut Adoption) {
        let mut free = Vec::new();
        let mut fresh = 1;
        for number in 1..self.memory.flows().len() as u32 {
            if cells::state(&self.memory.flows()[number as usize]) == STATE_OPEN {
                self.count(&self.get(FlowId(number)), 1);
                free.extend(fresh..number);
                fresh = number + 1;
            }
        }
        found.kept = self.counts.open;
        free.reverse();
        self.free = FreeNumbers::new(free, fresh, self.memory.flows().len() as u32);
    }
}

const BOTH_SIDES: u8 = 0b11;

/// Removes entries that lead nowhere. Returns for each flow which of its sides have one.
fn clean(index: &Index<'_>, mask: u32, found: &mut Adoption) -> Vec<u8> {
    let mut sides = vec![0_u8; index.flows.len()];
    // An entry is in its bucket or in the neighbour: two buckets at a time are all there is.
    for bucket in (0..=mask).step_by(2) {
        while remove_stale(index, bucket) {
            found.entries += 1;
        }
        for (flow, side) in owners(index, bucket).into_iter().flatten() {
            sides[flow as usize] |= 1 << side;
        }
    }
    sides
}

/// Removes one stale entry of a pair of buckets, if there is one.
fn remove_stale(index: &Index<'_>, pair: u32) -> bool {
    let owners = owners(index, pair);
    let mut slots = slots_of(index, pair).zip(owners);
    let stale = slots.find(|((_, slot), owner)| owner.is_none() && slot.load(Relaxed) != 0);
    if let Some(((bucket, slot), _)) = stale {
        index.vacate(bucket, slot);
    }
    stale.is_some()
}

/// Whose the entries of a pair of buckets are; `None` for an empty slot and for one that is stale.
fn owners(index: &Index<'_>, pair: u32) -> [Option<Owner>; 2 * BUCKET_SLOTS] {
    let mut owners = [None; 2 * BUCKET_SLOTS];
    // Those in their own bucket first: when a controller dies while it moves an entry home, it is
    // the one in the neighbour that is too much.
    for away in [0, 1] {
        for (position, (bucket, slot)) in slots_of(index, pair).enumerate() {
            let value = slot.load(Relaxed);
            let flow = value & (FLOWS_MAX - 1);
            let mut homes = (0..).zip(index.homes(value));
            let owner = homes.find_map(|(side, home)| {
                let owner = (flow, side);
                (home == Some(bucket ^ away) && !owners.contains(&Some(owner))).then_some(owner)
            });
            let is_open = || cells::state(&index.flows[flow as usize]) == STATE_OPEN;
            owners[position] = owners[position].or(owner.filter(|_| is_open()));
        }
    }
    owners
}

/// The slots of a pair of buckets, each with its bucket.
fn slots_of<'a>(index: &Index<'a>, pair: u32) -> impl Iterator<Item = (u32, &'a AtomicU32)> {
    let [first, second] = [pair, pair + 1].map(|bucket| {
        let slots = index.bucket(bucket).iter();
        slots.map(move |slot| (bucket, slot))
    });
    first.chain(second)
}
