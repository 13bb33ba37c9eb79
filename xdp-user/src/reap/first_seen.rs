//! Since when something has been there, of which only the presence can be seen.

use std::collections::{HashMap, hash_map::Entry};

use crate::engine::Tick;

/// Sockets by the kernel's cookie, and when each was first seen. It is looked at in rounds: what is
/// not seen in two is forgotten. One alone may miss it, because sockets come and go while the kernel
/// lists them.
#[derive(Debug)]
pub(super) struct FirstSeen {
    seen: HashMap<u64, Sight>,
    bound: usize,
    round: u32,
    left_out: u64,
}

#[derive(Debug)]
struct Sight {
    first: Tick,
    round: u32,
}

impl FirstSeen {
    /// Remembers at most `bound`.
    pub(super) fn new(bound: usize) -> Self {
        Self {
            seen: HashMap::new(),
            bound,
            round: 0,
            left_out: 0,
        }
    }

    /// It is there at `now`; since when. `None` when there is no place to remember it: one that
    /// becomes free in this round is given to it in a later one.
    pub(super) fn see(&mut self, cookie: u64, now: Tick) -> Option<Tick> {
        let is_full = self.seen.len() >= self.bound;
        match self.seen.entry(cookie) {
            Entry::Occupied(mut sight) => {
                sight.get_mut().round = self.round;
                Some(sight.get().first)
            }
            Entry::Vacant(_) if is_full => {
                self.left_out += 1;
                None
            }
            Entry::Vacant(place) => {
                place.insert(Sight {
                    first: now,
                    round: self.round,
                });
                Some(now)
            }
        }
    }

    /// Ends a round; how many there was no place for in it.
    pub(super) fn end_round(&mut self) -> u64 {
        let round = self.round;
        self.seen
            .retain(|_, sight| round.wrapping_sub(sight.round) <= 1);
        self.round = round.wrapping_add(1);
        std::mem::take(&mut self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_twice_starts_anew() {
        let mut seen = FirstSeen::new(10);
        assert_eq!(seen.see(7, Tick(1)), Some(Tick(1)));
        seen.end_round();
        assert_eq!(seen.see(7, Tick(2)), Some(Tick(1)));
        assert_eq!(
            seen.see(7, Tick(2)),
            Some(Tick(1)),
            "a list may have it twice"
        );
        seen.end_round();
        seen.end_round();
        assert_eq!(seen.see(7, Tick(4)), Some(Tick(1)));
        seen.end_round();
        seen.end_round();
        seen.end_round();
        assert_eq!(seen.see(7, Tick(7)), Some(Tick(7)));
    }

    #[test]
    fn at_the_bound_the_newcomer_waits_for_a_place() {
        let mut seen = FirstSeen::new(2);
        for cookie in [1, 2] {
            assert!(seen.see(cookie, Tick(1)).is_some());
        }
        assert_eq!(seen.see(3, Tick(1)), None);
        assert_eq!(seen.see(2, Tick(1)), Some(Tick(1)));
        assert_eq!(seen.end_round(), 1);
        seen.see(2, Tick(2));
        assert_eq!(seen.end_round(), 0);
        seen.see(2, Tick(3));
        seen.end_round();
        assert_eq!(seen.see(3, Tick(4)), Some(Tick(4)));
    }
}
