//! Consistent hashing of clients to backends: Maglev (Eisenbud et al., "Maglev: A Fast and
//! Reliable Software Network Load Balancer", NSDI 2016, section 3.4), with weights.

use xdp_common::siphash::SipHash;

use super::balancer::BackendKey;

/// Slots of the table: a prime, and a thousand for each of the at most 64 backends, so that shares
/// are right to about one percent.
const SLOTS: usize = 65_537;

/// No backend has taken the slot yet.
const FREE: u8 = u8::MAX;

/// Which backend each hash belongs to. 64 KiB.
#[derive(Clone)]
pub struct Maglev {
    /// Positions of backends; empty when none has a weight.
    slots: Vec<u8>,
}

/// One backend while the table is filled.
struct Turn {
    position: u8,
    weight: u32,
    /// Grows by the weight each round; a slot costs the highest weight.
    credit: u32,
    /// Next slot of this backend's permutation.
    next: usize,
    skip: usize,
}

impl Maglev {
    /// Fills the table: at most [`BACKENDS_MAX`](crate::config::BACKENDS_MAX) backends, each with
    /// its key and its weight. Machines with the same `hash_key` get the same table.
    #[must_use]
    pub fn new(backends: &[(BackendKey, u16)], hash_key: [u64; 2]) -> Self {
        let mut turns: Vec<_> = (0..FREE)
            .zip(backends)
            .filter(|(_, (_, weight))| *weight > 0)
            .map(|(position, &(key, weight))| Turn::new(position, key, weight, hash_key))
            .collect();
        // The order of turns decides who gets a slot that several want: it must not depend on the
        // order in the configuration.
        turns.sort_unstable_by_key(|turn| (turn.skip, turn.next, turn.position));
        let Some(weight_max) = turns.iter().map(|turn| turn.weight).max() else {
            return Self { slots: Vec::new() };
        };
        let mut slots = vec![FREE; SLOTS];
        let mut left = SLOTS;
        loop {
            for turn in &mut turns {
                turn.credit += turn.weight;
                if turn.credit < weight_max {
                    continue;
                }
                turn.credit -= weight_max;
                let slot = turn.free_slot(&slots);
                slots[slot] = turn.position;
                left -= 1;
                if left == 0 {
                    return Self { slots };
                }
            }
        }
    }

    /// The position of the backend that `hash` belongs to; `None` when there is no backend.
    #[must_use]
    pub fn get(&self, hash: u64) -> Option<usize> {
        let slot = hash.checked_rem(self.slots.len() as u64)?;
        Some(usize::from(self.slots[slot as usize]))
    }
}

impl Turn {
    fn new(position: u8, key: BackendKey, weight: u16, hash_key: [u64; 2]) -> Self {
        let hash = |salt| SipHash::new(hash_key).word(key.0).finish(salt, 9) as usize;
        Self {
            position,
            weight: u32::from(weight),
            credit: 0,
            next: hash(0) % SLOTS,
            skip: hash(1) % (SLOTS - 1) + 1,
        }
    }

    /// The first slot of the permutation that is free. There is one: the permutation visits all.
    fn free_slot(&mut self, slots: &[u8]) -> usize {
        loop {
            let slot = self.next;
            self.next = (slot + self.skip) % SLOTS;
            if slots[slot] == FREE {
                return slot;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH_KEY: [u64; 2] = [0x0123_4567_89ab_cdef, 42];

    fn table(backends: &[(u64, u16)]) -> Maglev {
        let backends: Vec<_> = backends
            .iter()
            .map(|&(key, weight)| (BackendKey(key), weight))
            .collect();
        Maglev::new(&backends, HASH_KEY)
    }

    fn slots_of(maglev: &Maglev, position: usize) -> usize {
        let mine = maglev.slots.iter().filter(|&&p| usize::from(p) == position);
        mine.count()
    }

    #[test]
    fn every_slot_is_taken_by_weight() {
        let backends = [(1, 1), (2, 2), (3, 0), (4, 5), (5, 256)];
        let maglev = table(&backends);
        assert!(!maglev.slots.contains(&FREE));
        let total: u32 = backends.iter().map(|&(_, weight)| u32::from(weight)).sum();
        for (position, (_, weight)) in backends.into_iter().enumerate() {
            let fair = SLOTS as f64 * f64::from(weight) / f64::from(total);
            let has = slots_of(&maglev, position) as f64;
            assert!(
                (has - fair).abs() <= 1.0 + fair * 0.01,
                "{position}: {has} of {fair}"
            );
        }
    }

    #[test]
    fn no_weight_no_backend() {
        assert_eq!(table(&[]).get(7), None);
        assert_eq!(table(&[(1, 0), (2, 0)]).get(7), None);
        assert_eq!(table(&[(1, 0), (2, 1)]).get(7), Some(1));
    }

    #[test]
    fn as_many_as_there_may_be() {
        let backends: Vec<_> = (0..crate::config::BACKENDS_MAX as u64)
            .map(|key| (key, 1))
            .collect();
        let maglev = table(&backends);
        for position in 0..backends.len() {
            let has = slots_of(&maglev, position);
            assert!((1_024..=1_025).contains(&has), "{position}: {has}");
        }
    }

    #[test]
    fn the_order_of_backends_does_not_matter() {
        let forward = table(&[(1, 3), (2, 1), (3, 7)]);
        let backward = table(&[(3, 7), (2, 1), (1, 3)]);
        for hash in 0..SLOTS as u64 {
            assert_eq!(
                forward.get(hash),
                backward.get(hash).map(|position| 2 - position)
            );
        }
    }

    #[test]
    fn when_one_of_ten_goes_few_others_move() {
        let ten: Vec<_> = (0..10).map(|key| (key, 1)).collect();
        let before = table(&ten);
        for gone in 0..10 {
            let mut nine = ten.clone();
            nine.remove(gone);
            let after = table(&nine);
            let keys =
                |maglev: &Maglev, list: &[(u64, u16)], hash| list[maglev.get(hash).unwrap()].0;
            let others: Vec<_> = (0..SLOTS as u64)
                .map(|hash| (keys(&before, &ten, hash), keys(&after, &nine, hash)))
                .filter(|&(old, _)| old != gone as u64)
                .collect();
            let moved = others.iter().filter(|(old, new)| old != new).count();
            assert!(
                moved * 100 < others.len() * 15,
                "{gone}: {moved} of {}",
                others.len()
            );
        }
    }
}
