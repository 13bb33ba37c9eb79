//! Which numbers of flows are free.

use std::collections::VecDeque;

use crate::engine::Tick;

/// How long a number rests before another connection gets it, milliseconds. The data path may still
/// be at a packet for which it found the flow while that was open; that takes it microseconds, and
/// a CPU that is taken from a virtual machine in between perhaps some milliseconds.
pub const REST_MS: u64 = 1000;

/// The free numbers of a table.
#[derive(Debug)]
pub(super) struct FreeNumbers {
    /// Never used, from here up to `end`: the memory behind them was not touched yet.
    fresh: u32,
    end: u32,
    /// Free when the table was taken over.
    found: Vec<u32>,
    /// Used, by the time when they were given back.
    resting: VecDeque<(Tick, u32)>,
}

impl FreeNumbers {
    /// Those in `found`, and all from `fresh` on, below `end`.
    pub(super) const fn new(found: Vec<u32>, fresh: u32, end: u32) -> Self {
        Self {
            fresh,
            end,
            found,
            resting: VecDeque::new(),
        }
    }

    /// Takes a number that is free and has rested.
    pub(super) fn take(&mut self, now: Tick) -> Option<u32> {
        if let Some(number) = self.found.pop() {
            return Some(number);
        }
        if self
            .resting
            .front()
            .is_some_and(|&(since, _)| now.since(since) >= REST_MS)
        {
            return self.resting.pop_front().map(|(_, number)| number);
        }
        let number = (self.fresh < self.end).then_some(self.fresh)?;
        self.fresh += 1;
        Some(number)
    }

    /// Takes back a number.
    pub(super) fn give(&mut self, now: Tick, number: u32) {
        self.resting.push_back((now, number));
    }

    /// All numbers from here on were never used.
    pub(super) const fn fresh(&self) -> u32 {
        self.fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_rests_before_it_is_used_again() {
        let mut numbers = FreeNumbers::new(vec![2], 5, 7);
        let mut take = |now| numbers.take(Tick(now));
        assert_eq!([take(0), take(0), take(0)], [Some(2), Some(5), Some(6)]);
        assert_eq!(take(0), None);
        numbers.give(Tick(10), 5);
        numbers.give(Tick(20), 2);
        assert_eq!(numbers.take(Tick(9 + REST_MS)), None);
        assert_eq!(numbers.take(Tick(10 + REST_MS)), Some(5));
        assert_eq!(numbers.take(Tick(10 + REST_MS)), None);
        assert_eq!(numbers.fresh(), 7);
    }
}
