//! Where the data path notes which connections may be in TIME_WAIT, and for how long a note counts.
//!
//! A filter of one bit per hash value, in generations that take turns: marks go into the current
//! one, a mark counts in the current and the previous one, and the controller clears the next one
//! while nobody reads or writes it. Bits need no time of their own that way, so that the two
//! generations that every SYN looks at stay in the CPU's caches.

/// Generations, a power of two. One is current, one previous, one next; the fourth keeps the next
/// one out of the reach of a program that read the clock just before it moved on.
pub const GENERATIONS: u32 = 4;

/// Seconds for which a generation is the current one. A mark counts for at least as long: Linux
/// keeps TIME_WAIT for 60 s (`TCP_TIMEWAIT_LEN`), and the rest is for the server's last ACK.
pub const GENERATION_S: u32 = 64;

/// Words of 64 marks in a generation, a power of two: 64 KiB.
pub const WORDS: usize = 8192;

/// The place of a connection's mark, the same in every generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the word, below [`WORDS`].
    pub word: usize,
    /// The bit in the word.
    pub bit: u64,
}

impl Place {
    /// By the connection's [`Tuple::hash`](crate::tuple::Tuple::hash), whose upper bits are its
    /// best.
    #[inline(always)]
    pub const fn new(hash: u64) -> Self {
        const WORD_SHIFT: u32 = u64::BITS - WORDS.trailing_zeros();
        Self {
            word: (hash >> WORD_SHIFT) as usize,
            bit: 1 << (hash >> (WORD_SHIFT - 6) & 63),
        }
    }
}

/// The generation that marks are set in when the controller's clock says `clock_s`.
#[inline(always)]
pub const fn current(clock_s: u32) -> u32 {
    (clock_s / GENERATION_S) & (GENERATIONS - 1)
}

/// The generation before, whose marks count as well.
#[inline(always)]
pub const fn previous(clock_s: u32) -> u32 {
    current(clock_s).wrapping_sub(1) & (GENERATIONS - 1)
}

/// The generation after, to be cleared before its time.
#[inline(always)]
pub const fn next(clock_s: u32) -> u32 {
    (current(clock_s) + 1) & (GENERATIONS - 1)
}

const _: () = assert!(GENERATIONS.is_power_of_two() && WORDS.is_power_of_two());
// So that the generations go on in turn when the clock wraps.
const _: () = assert!((1_u64 << 32).is_multiple_of((GENERATIONS * GENERATION_S) as u64));

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One place in every generation, and the controller's turns.
    #[derive(Default)]
    struct Filter {
        marks: [bool; GENERATIONS as usize],
        cleared: Option<u32>,
    }

    impl Filter {
        fn tick(&mut self, clock_s: u32) {
            let next = next(clock_s);
            if self.cleared != Some(next) {
                self.marks[next as usize] = false;
                self.cleared = Some(next);
            }
        }

        fn is_marked(&self, clock_s: u32) -> bool {
            [current(clock_s), previous(clock_s)]
                .iter()
                .any(|generation| self.marks[*generation as usize])
        }
    }

    proptest! {
        #[test]
        fn a_mark_counts_for_one_to_two_generations(
            start: u32,
            // Ticks come late when the controller is busy, but not by a generation.
            steps in prop::collection::vec(1..GENERATION_S, 1..600),
        ) {
            let mut filter = Filter::default();
            filter.tick(start);
            filter.marks[current(start) as usize] = true;
            let mut age = 0;
            for step in steps {
                age += step;
                let clock_s = start.wrapping_add(age);
                filter.tick(clock_s);
                if age <= GENERATION_S {
                    prop_assert!(filter.is_marked(clock_s), "forgotten after {age} s");
                }
                if age >= 2 * GENERATION_S {
                    prop_assert!(!filter.is_marked(clock_s), "still there after {age} s");
                }
            }
        }

        #[test]
        fn what_is_cleared_is_in_nobodys_reach(clock_s: u32, behind in 0..=GENERATION_S) {
            let reader = clock_s.wrapping_sub(behind);
            prop_assert_ne!(next(clock_s), current(reader));
            prop_assert_ne!(next(clock_s), previous(reader));
        }

        #[test]
        fn every_hash_has_a_place(hash: u64) {
            let place = Place::new(hash);
            prop_assert!(place.word < WORDS);
            prop_assert!(place.bit.is_power_of_two());
        }
    }

    #[test]
    fn the_upper_bits_choose_the_place() {
        let places: std::collections::HashSet<_> = (0..1_u64 << 19)
            .map(|upper| Place::new(upper << 45))
            .map(|place| (place.word, place.bit))
            .collect();
        assert_eq!(places.len(), WORDS * 64);
    }
}
