//! What is not a connection yet, on either side.
//!
//! Towards the client, a SYN that was answered with a cookie holds nothing: there is nothing to
//! bound or to evict, only [`Unproven`], an estimate of how many there are. Towards the backend, a
//! connect in progress holds two sockets: [`HalfOpenQueue`] bounds them. A client that only
//! returned its cookie has proven its address; one that has sent data as well is taken for a
//! client that means it, and never loses its place to another.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use xdp_common::cookie::EPOCH_S;

use super::Tick;

/// Connects in progress of one service at one worker.
#[derive(Debug)]
pub struct HalfOpenQueue {
    bound: usize,
    /// By key: the order of entry, and whether the client spoke.
    places: HashMap<u32, (u64, bool)>,
    /// By order of entry, which is that of time: who has not sent anything, and who has.
    silent: BTreeMap<u64, Waiting>,
    spoke: BTreeMap<u64, Waiting>,
    entered: u64,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    key: u32,
    since: Tick,
}

/// What came of entering a [`HalfOpenQueue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// There was a free place.
    Free,
    /// The oldest silent client lost its place, and is to be reset.
    Evicted {
        /// Its key, which is no longer in the queue.
        key: u32,
    },
    /// Everybody in the queue has spoken: the newcomer did not get in.
    Full,
}

impl HalfOpenQueue {
    /// An empty one with `bound` places, at least one.
    #[must_use]
    pub fn new(bound: u32) -> Self {
        Self {
            bound: bound.max(1) as usize,
            places: HashMap::new(),
            silent: BTreeMap::new(),
            spoke: BTreeMap::new(),
            entered: 0,
        }
    }

    /// Changes the bound, to at least one. Who is in beyond it stays until it leaves or is evicted.
    pub fn set_bound(&mut self, bound: u32) {
        self.bound = bound.max(1) as usize;
    }

    /// Takes a place for `key`; `spoke` tells whether its client has sent data already. A key that
    /// is in the queue starts anew.
    pub fn enter(&mut self, now: Tick, key: u32, spoke: bool) -> Place {
        self.leave(now, key);
        let mut place = Place::Free;
        if self.places.len() >= self.bound {
            let Some((_, oldest)) = self.silent.pop_first() else {
                return Place::Full;
            };
            self.places.remove(&oldest.key);
            place = Place::Evicted { key: oldest.key };
        }
        self.entered += 1;
        self.places.insert(key, (self.entered, spoke));
        let queue = if spoke {
            &mut self.spoke
        } else {
            &mut self.silent
        };
        queue.insert(self.entered, Waiting { key, since: now });
        place
    }

    /// The client of `key` has sent data: it is not evicted any more. Nothing if it is not in the
    /// queue.
    pub fn spoke(&mut self, key: u32) {
        let Some((order, spoke)) = self.places.get_mut(&key) else {
            return;
        };
        if let Some(waiting) = self.silent.remove(order) {
            self.spoke.insert(*order, waiting);
            *spoke = true;
        }
    }

    /// Gives the place of `key` back; how long it was held, milliseconds. `None` if it has none,
    /// having been evicted.
    pub fn leave(&mut self, now: Tick, key: u32) -> Option<u64> {
        let (order, spoke) = self.places.remove(&key)?;
        let queue = if spoke {
            &mut self.spoke
        } else {
            &mut self.silent
        };
        let waiting = queue.remove(&order)?;
        Some(now.since(waiting.since))
    }

    /// Connects in progress.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.places.len()
    }

    /// How long the oldest has been in progress, milliseconds; 0 when there is none.
    #[must_use]
    pub fn oldest_age_ms(&self, now: Tick) -> u64 {
        [&self.silent, &self.spoke]
            .into_iter()
            .filter_map(|queue| Some(now.since(queue.first_key_value()?.1.since)))
            .max()
            .unwrap_or(0)
    }
}

/// How long an unreturned cookie counts, seconds: as long as one is valid at least, and a client's
/// retransmissions of the final ACK make sense.
pub const UNPROVEN_S: u64 = EPOCH_S;

/// An estimate of the cookies that were sent and have not come back, from two counters.
///
/// Cookies leave no trace, so which one came back is not known. Most come back within a second, so
/// a returned one is taken for the youngest that is out. It errs by the clients that take longer,
/// and not by how many are out, only by how long.
#[derive(Debug)]
pub struct Unproven {
    /// What is out of each second, by its number modulo the length.
    out: [u64; UNPROVEN_S as usize],
    /// The second of the last sample, and the counters then.
    last: Option<(u64, u64, u64)>,
}

impl Default for Unproven {
    fn default() -> Self {
        Self {
            out: [0; UNPROVEN_S as usize],
            last: None,
        }
    }
}

impl Unproven {
    /// What the counters say at second `now_s` of a clock that does not go back: cookies ever
    /// sent, and ever returned. The first sample is where counting starts, and so is one whose
    /// counters are lower than before.
    pub fn sample(&mut self, now_s: u64, sent: u64, returned: u64) {
        let Some((last_s, last_sent, last_returned)) = self.last.replace((now_s, sent, returned))
        else {
            return;
        };
        let passed_s = now_s.saturating_sub(last_s).min(UNPROVEN_S);
        for age_s in 0..passed_s {
            *self.slot(now_s - age_s) = 0;
        }
        *self.slot(now_s) += sent.saturating_sub(last_sent);
        let mut returned = returned.saturating_sub(last_returned);
        for age_s in 0..UNPROVEN_S.min(now_s + 1) {
            let out = self.slot(now_s - age_s);
            let taken = returned.min(*out);
            *out -= taken;
            returned -= taken;
        }
    }

    /// How many are out.
    #[must_use]
    pub fn depth(&self) -> u64 {
        self.out.iter().sum()
    }

    /// How long the oldest of them has been out, seconds; 0 when there is none.
    #[must_use]
    pub fn oldest_age_s(&self) -> u64 {
        let Some((now_s, ..)) = self.last else {
            return 0;
        };
        (0..UNPROVEN_S.min(now_s + 1))
            .rev()
            .find(|age_s| self.out[((now_s - age_s) % UNPROVEN_S) as usize] > 0)
            .unwrap_or(0)
    }

    const fn slot(&mut self, second: u64) -> &mut u64 {
        &mut self.out[(second % UNPROVEN_S) as usize]
    }
}
