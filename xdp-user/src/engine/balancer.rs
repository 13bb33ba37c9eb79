//! Which backend gets a connection.

use std::{
    cmp::Ordering,
    net::{IpAddr, SocketAddr},
};

use xdp_common::siphash::SipHash;

use super::{address, maglev::Maglev};
use crate::config::{BACKENDS_MAX, Balance};

/// A configured weight of 1 in units of a weight in force: a slow start has to give less than 1.
/// The highest weight, 256, fits into 16 bits.
pub const WEIGHT_UNIT: u16 = 128;

/// Backends by position: bit 0 is the first.
pub type BackendSet = u64;

const _: () = assert!(BACKENDS_MAX <= BackendSet::BITS as usize);

/// Further looks into the table for a client whose backend is not to be had.
const PROBES: u64 = 8;

/// A backend as it stands now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The weight in force, in parts of [`WEIGHT_UNIT`]; 0 takes no new connections.
    pub weight: u16,
    /// Its connections now, those in progress included.
    pub active: u32,
    /// Bound on them; 0 for none.
    pub max: u32,
    /// Whether it is up and not ejected.
    pub usable: bool,
}

impl Candidate {
    const fn is_free(&self) -> bool {
        self.usable && self.weight > 0 && (self.max == 0 || self.active < self.max)
    }
}

/// Tells a backend from others, wherever it stands in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendKey(pub u64);

impl BackendKey {
    /// The key of one address of a backend.
    #[must_use]
    pub fn new(name: &str, address: SocketAddr) -> Self {
        // No secret: keys are only told apart here, and hashed under a secret in the table.
        let mut state = SipHash::new([0; 2]).word(name.len() as u64);
        for part in name.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            state = state.word(u64::from_le_bytes(word));
        }
        let [high, low] = address::words(address::bits(address.ip()));
        Self(
            state
                .word(high)
                .word(low)
                .finish(u64::from(address.port()), 2),
        )
    }
}

/// Chooses the backends of one service, for one worker.
pub struct Balancer {
    balance: Balance,
    /// Of smooth weighted round robin: who has the most is next.
    credits: Vec<i64>,
    by_client: Option<ByClient>,
}

struct ByClient {
    table: Maglev,
    /// Configured weights, in parts of [`WEIGHT_UNIT`].
    weights: Vec<u16>,
    hash_key: [u64; 2],
}

impl Balancer {
    /// For backends with these keys and configured weights, at most [`BACKENDS_MAX`]. `hash_key`
    /// keeps clients from choosing addresses that meet on one backend; machines that share it send
    /// a client to the same one. For [`Balance::ClientHash`] this fills a table, which takes
    /// milliseconds.
    #[must_use]
    pub fn new(balance: Balance, keys: &[BackendKey], weights: &[u16], hash_key: [u64; 2]) -> Self {
        debug_assert!(keys.len() == weights.len() && keys.len() <= BACKENDS_MAX);
        let by_client = (balance == Balance::ClientHash).then(|| {
            let backends: Vec<_> = keys.iter().copied().zip(weights.iter().copied()).collect();
            ByClient {
                table: Maglev::new(&backends, hash_key),
                weights: weights.iter().map(|&weight| in_force(weight)).collect(),
                hash_key,
            }
        });
        Self {
            balance,
            credits: vec![0; keys.len()],
            by_client,
        }
    }

    /// The position of the backend for the next connection, out of those that are usable, have a
    /// weight and a place free, and were not tried; `None` when there is none.
    ///
    /// `candidates` are the backends given to [`new`](Self::new), in the same order.
    pub fn pick(
        &mut self,
        candidates: &[Candidate],
        client: IpAddr,
        tried: BackendSet,
    ) -> Option<usize> {
        debug_assert_eq!(candidates.len(), self.credits.len());
        let free = |set: BackendSet, (position, candidate): (usize, &Candidate)| {
            let may = candidate.is_free() && tried & (1 << position) == 0;
            set | BackendSet::from(may) << position
        };
        let free = candidates.iter().enumerate().fold(0, free);
        if free == 0 {
            return None;
        }
        match (self.balance, &self.by_client) {
            (Balance::ClientHash, Some(by_client)) => by_client.pick(candidates, free, client),
            (Balance::LeastConnections, _) => self.turn(candidates, least_loaded(candidates, free)),
            _ => self.turn(candidates, free),
        }
    }

    /// Lets `turns` connections pass that never come, so that workers do not all start with the
    /// first backend.
    pub fn skip(&mut self, candidates: &[Candidate], turns: usize) {
        let all = candidates.iter().enumerate();
        let weighted = all.fold(0, |set, (position, candidate)| {
            set | BackendSet::from(candidate.weight > 0) << position
        });
        for _ in 0..turns {
            self.turn(candidates, weighted);
        }
    }

    /// Smooth weighted round robin, as nginx does it: everybody's credit grows by the weight, and
    /// whoever has the most pays for all.
    fn turn(&mut self, candidates: &[Candidate], among: BackendSet) -> Option<usize> {
        let mut total = 0;
        let mut next: Option<usize> = None;
        for position in positions(among) {
            let weight = i64::from(candidates[position].weight);
            total += weight;
            self.credits[position] += weight;
            if next.is_none_or(|next| self.credits[position] > self.credits[next]) {
                next = Some(position);
            }
        }
        self.credits[next?] -= total;
        next
    }
}

impl ByClient {
    /// The client's backend; when it is not to be had, that of its next hash, and so on. So a
    /// backend that goes takes only its own clients along, and they return with it.
    fn pick(&self, candidates: &[Candidate], free: BackendSet, client: IpAddr) -> Option<usize> {
        let [high, low] = address::words(address::host(client));
        let client = SipHash::new(self.hash_key).word(high).word(low);
        let probed = (0..=PROBES).find_map(|probe| {
            let hash = client.finish(probe, 2);
            let position = self.table.get(hash)?;
            let is_free = free & (1 << position) != 0;
            (is_free && self.is_in_share(position, candidates[position].weight, hash))
                .then_some(position)
        });
        probed.or_else(|| highest(candidates, free, client))
    }

    /// In a slow start a backend gets a part of its clients that grows; no client moves twice.
    fn is_in_share(&self, position: usize, weight: u16, hash: u64) -> bool {
        let full = u64::from(self.weights[position]);
        (hash >> 32) * full < u64::from(weight) << 32
    }
}

/// Rendezvous hashing over what is free: for pools that are mostly down. A client stays with its
/// backend there as well.
fn highest(candidates: &[Candidate], free: BackendSet, client: SipHash) -> Option<usize> {
    let score = |position: usize| {
        let hash = client.finish(position as u64, 3);
        // In (0, 1), ends excluded: the logarithm is finite and below 0.
        let uniform = ((hash >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
        -f64::from(candidates[position].weight) / uniform.ln()
    };
    positions(free).max_by(|&a, &b| score(a).total_cmp(&score(b)))
}

/// Those that have the fewest connections for their weight.
fn least_loaded(candidates: &[Candidate], free: BackendSet) -> BackendSet {
    let mut least: Option<&Candidate> = None;
    let mut set = 0;
    for position in positions(free) {
        let this = &candidates[position];
        match least.map_or(Ordering::Less, |least| load(this, least)) {
            Ordering::Less => {
                least = Some(this);
                set = 1 << position;
            }
            Ordering::Equal => set |= 1 << position,
            Ordering::Greater => {}
        }
    }
    set
}

/// Compares connections per weight, multiplied out: exact.
fn load(a: &Candidate, b: &Candidate) -> Ordering {
    let scaled = |active: u32, weight: u16| u64::from(active) * u64::from(weight);
    scaled(a.active, b.weight).cmp(&scaled(b.active, a.weight))
}

fn positions(mut set: BackendSet) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let position = set.trailing_zeros();
        set &= set.wrapping_sub(1);
        (position < BackendSet::BITS).then_some(position as usize)
    })
}

/// A configured weight, 0 to 256, as a weight in force.
#[must_use]
pub const fn in_force(weight: u16) -> u16 {
    weight.saturating_mul(WEIGHT_UNIT)
}

#[cfg(test)]
mod tests;
