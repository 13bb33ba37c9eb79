//! Bounds per client: connections of an address, of its /24 or /64, and how fast they come.
//!
//! Addresses are proven, so nobody can use up somebody else's share. But there are many of them,
//! and the table must not grow with them: it is an array in which each key has two buckets of
//! eight. What holds connections is never thrown out; where both buckets are full of that, a
//! connection is admitted without being counted, which is counted. A full table must not turn into
//! an outage.

use std::net::IpAddr;

use xdp_common::siphash::SipHash;

use super::{
    Tick, address,
    rate::{Gcra, Rate},
    reason::Refusal,
};
use crate::config::Limits;

/// Entries in all tables of the proxy together, by default: a client and its prefix for each of
/// 100,000 connections, with room to spare. 8 MiB.
pub const LIMIT_ENTRIES_MAX: usize = 262_144;

/// Entries in a bucket: 256 bytes, four cache lines.
const BUCKET: usize = 8;

const _: () = assert!(size_of::<Entry>() == 32);

/// Clients with their connections and rates. Time must not run backwards.
pub struct LimitTable {
    slots: Vec<Entry>,
    hash_key: [u64; 2],
    occupied: usize,
    /// Where the next sweep starts.
    cursor: usize,
    uncounted: u64,
    forgotten: u64,
}

/// A connection's places in the counts, to be given back by [`LimitTable::leave`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the connection stays counted for ever"]
pub struct Permit {
    client: Option<Key>,
    prefix: Option<Key>,
}

/// Whose connections are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    /// The address, the rest of which is 0 for a prefix.
    words: [u64; 2],
    service: u16,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Client = 0,
    Prefix = 1,
}

/// Of one key; the fields of [`Key`] are here one by one to fit into half a cache line.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    words: [u64; 2],
    rate: Gcra,
    active: u32,
    service: u16,
    /// `None` when the slot is empty.
    kind: Option<Kind>,
}

/// The part of the proxy's tables that a client belongs to, out of `parts`: all of its entries
/// are in the same.
#[must_use]
pub fn part_of(client: IpAddr, parts: usize, hash_key: [u64; 2]) -> usize {
    let [high, low] = address::words(address::network(client));
    let hash = SipHash::new(hash_key).word(high).word(low).finish(0, 0);
    scaled(hash >> 32, parts)
}

impl LimitTable {
    /// An empty table with room for `bound` entries, rounded down to a multiple of 8 but not to 0.
    /// All of its memory is taken here: 32 bytes an entry. `hash_key` is a secret that keeps
    /// clients from choosing addresses that meet in one bucket.
    #[must_use]
    pub fn new(bound: usize, hash_key: [u64; 2]) -> Self {
        Self {
            slots: vec![Entry::default(); (bound / BUCKET).max(1) * BUCKET],
            hash_key,
            occupied: 0,
            cursor: 0,
            uncounted: 0,
            forgotten: 0,
        }
    }

    /// Counts a new connection of `client` to a service. `service` is a number that it keeps.
    ///
    /// An IPv6 client has a bound on connections by address, and a rate by /64.
    ///
    /// # Errors
    /// Fails with the first bound that is reached, in the order prefix, client, rate. Nothing is
    /// counted then.
    pub fn enter(
        &mut self,
        now: Tick,
        service: u16,
        client: IpAddr,
        limits: &Limits,
    ) -> Result<Permit, Refusal> {
        let is_v4 = address::is_v4(client);
        let prefix = Key::prefix(service, client);
        let client = Key::client(service, client);
        let paying = if is_v4 { client } else { prefix };
        if self.is_full(prefix, limits.per_prefix) {
            return Err(Refusal::PrefixConnections);
        }
        if self.is_full(client, limits.per_client) {
            return Err(Refusal::ClientConnections);
        }
        let paid = match Rate::new(limits.rate_per_minute, limits.rate_burst) {
            Some(rate) => {
                let before = self.get(paying).map_or_else(Gcra::default, |e| e.rate);
                Some(before.next(now, rate).ok_or(Refusal::ClientRate)?)
            }
            None => None,
        };

        let wanted = [(prefix, limits.per_prefix), (client, limits.per_client)];
        let [prefix, client] = wanted.map(|(key, bound)| (bound > 0).then(|| self.count(now, key)));
        // Last, because an entry that only holds a rate may have to make room for others.
        let remembered = paid.map(|paid| self.remember(now, paying, paid));
        let all = [
            prefix.map(|c| c.is_some()),
            client.map(|c| c.is_some()),
            remembered,
        ];
        self.uncounted += u64::from(all.contains(&Some(false)));
        Ok(Permit {
            client: client.flatten(),
            prefix: prefix.flatten(),
        })
    }

    /// Takes a connection out of the counts.
    pub fn leave(&mut self, permit: Permit) {
        for key in [permit.client, permit.prefix].into_iter().flatten() {
            let found = self.find(key);
            debug_assert!(found.is_some(), "a permit of another table: {key:?}");
            if let Some(position) = found {
                let entry = &mut self.slots[position];
                entry.active -= 1;
                if entry.active == 0 && entry.rate == Gcra::default() {
                    self.clear(position);
                }
            }
        }
    }

    /// Looks at the next `max` entries and drops those that say nothing any more. Needed only for
    /// [`entries`](Self::entries) to go down: their room is taken by others without it.
    pub fn sweep(&mut self, now: Tick, max: usize) {
        for _ in 0..max.min(self.slots.len()) {
            let position = self.cursor;
            self.cursor = (position + 1) % self.slots.len();
            let entry = &self.slots[position];
            if entry.kind.is_some() && entry.is_vacant(now) {
                self.clear(position);
            }
        }
    }

    /// Entries in use, at most [`capacity`](Self::capacity).
    #[must_use]
    pub const fn entries(&self) -> usize {
        self.occupied
    }

    /// Entries that there is room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Connections admitted without being counted everywhere, because there was no room.
    #[must_use]
    pub const fn uncounted(&self) -> u64 {
        self.uncounted
    }

    /// Rates forgotten early, because there was no room: their clients have their burst again.
    #[must_use]
    pub const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn is_full(&self, key: Key, bound: u32) -> bool {
        bound > 0 && self.get(key).is_some_and(|entry| entry.active >= bound)
    }

    /// Counts one connection more; `None` when there is no room for it.
    fn count(&mut self, now: Tick, key: Key) -> Option<Key> {
        let position = self.find_or_place(now, key)?;
        self.slots[position].active += 1;
        Some(key)
    }

    /// Whether there was room for it.
    fn remember(&mut self, now: Tick, key: Key, rate: Gcra) -> bool {
        let position = self.find_or_place(now, key);
        if let Some(position) = position {
            self.slots[position].rate = rate;
        }
        position.is_some()
    }

    fn get(&self, key: Key) -> Option<&Entry> {
        self.find(key).map(|position| &self.slots[position])
    }

    fn find(&self, key: Key) -> Option<usize> {
        self.buckets(key)
            .into_iter()
            .flat_map(|start| start..start + BUCKET)
            .find(|&position| self.slots[position].is(key))
    }

    fn find_or_place(&mut self, now: Tick, key: Key) -> Option<usize> {
        if let Some(position) = self.find(key) {
            return Some(position);
        }
        let position = self.room(now, key)?;
        let entry = &mut self.slots[position];
        self.forgotten += u64::from(!entry.is_vacant(now));
        self.occupied += usize::from(entry.kind.is_none());
        *entry = Entry {
            words: key.words,
            service: key.service,
            kind: Some(key.kind),
            ..Entry::default()
        };
        Some(position)
    }

    /// A slot for a new entry: vacant, in the bucket that has more of those; or the one whose rate
    /// is over first.
    fn room(&self, now: Tick, key: Key) -> Option<usize> {
        let of = |start: usize| start..start + BUCKET;
        let vacant = |start| of(start).filter(|&position| self.slots[position].is_vacant(now));
        let [first, second] = self.buckets(key);
        let emptier = if vacant(second).count() > vacant(first).count() {
            second
        } else {
            first
        };
        let idle = || {
            of(first)
                .chain(of(second))
                .filter(|&position| self.slots[position].active == 0)
                .min_by_key(|&position| self.slots[position].rate)
        };
        vacant(emptier).next().or_else(idle)
    }

    /// The first slots of the key's two buckets, which may be the same.
    fn buckets(&self, key: Key) -> [usize; 2] {
        let [high, low] = key.words;
        let tail = u64::from(key.service) | (key.kind as u64) << 16;
        let hash = SipHash::new(self.hash_key)
            .word(high)
            .word(low)
            .finish(tail, 3);
        let count = self.slots.len() / BUCKET;
        [hash >> 32, hash & 0xffff_ffff].map(|half| scaled(half, count) * BUCKET)
    }

    fn clear(&mut self, position: usize) {
        self.slots[position] = Entry::default();
        self.occupied -= 1;
    }
}

impl Key {
    const fn client(service: u16, address: IpAddr) -> Self {
        Self {
            words: address::words(address::bits(address)),
            service,
            kind: Kind::Client,
        }
    }

    const fn prefix(service: u16, address: IpAddr) -> Self {
        Self {
            words: address::words(address::network(address)),
            service,
            kind: Kind::Prefix,
        }
    }
}

impl Entry {
    fn is(&self, key: Key) -> bool {
        self.words == key.words && self.service == key.service && self.kind == Some(key.kind)
    }

    /// Whether it says no more than an empty slot would.
    fn is_vacant(&self, now: Tick) -> bool {
        self.active == 0 && self.rate.is_over(now)
    }
}

/// A 32-bit hash as a number below `count`.
const fn scaled(hash: u64, count: usize) -> usize {
    ((hash * count as u64) >> 32) as usize
}

#[cfg(test)]
mod tests;
