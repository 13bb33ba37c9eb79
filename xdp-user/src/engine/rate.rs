//! A rate with a burst: the generic cell rate algorithm (ITU-T I.371 annex A, virtual scheduling).
//!
//! One number per client says everything: the time at which, at the rate, everything it was allowed
//! so far would have come.

use super::Tick;

/// How often something may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Time between two at the rate.
    emission_ns: u64,
    /// How far ahead of the rate one may be.
    tolerance_ns: u64,
}

impl Rate {
    /// At most `per_minute` in the long run, and `burst` of them at once; a burst of 0 counts as
    /// 1. `None` when `per_minute` is 0: no bound.
    ///
    /// Time moves in steps of a millisecond, so that with more than 60,000 a minute the burst has
    /// to cover what comes within one.
    #[must_use]
    pub fn new(per_minute: u32, burst: u32) -> Option<Self> {
        const MINUTE_NS: u64 = 60_000_000_000;
        let emission_ns = MINUTE_NS.checked_div(u64::from(per_minute))?;
        Some(Self {
            emission_ns,
            tolerance_ns: emission_ns.saturating_mul(u64::from(burst.max(1) - 1)),
        })
    }
}

/// What is remembered of one client: its theoretical arrival time, nanoseconds on the clock of
/// [`Tick`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gcra(u64);

impl Gcra {
    /// What is remembered afterwards when one more comes at `now`; `None` when it may not.
    #[must_use]
    pub fn next(self, now: Tick, rate: Rate) -> Option<Self> {
        let now_ns = nanoseconds(now);
        if self.0 > now_ns.saturating_add(rate.tolerance_ns) {
            return None;
        }
        Some(Self(self.0.max(now_ns).saturating_add(rate.emission_ns)))
    }

    /// Whether it says no more than [`default`](Self::default) would.
    #[must_use]
    pub fn is_over(self, now: Tick) -> bool {
        self.0 <= nanoseconds(now)
    }
}

const fn nanoseconds(tick: Tick) -> u64 {
    tick.0.saturating_mul(1_000_000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The times of `arrivals` that were allowed.
    fn allowed(rate: Rate, arrivals: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let mut state = Gcra::default();
        let pass = |&ms: &u64| {
            state
                .next(Tick(ms), rate)
                .inspect(|&next| state = next)
                .is_some()
        };
        arrivals.into_iter().filter(pass).collect()
    }

    #[test]
    fn the_burst_comes_at_once_and_then_the_rate() {
        let rate = Rate::new(600, 5).unwrap();
        assert_eq!(allowed(rate, [50; 8]).len(), 5);
        let every_ms = allowed(rate, 0..1_000);
        assert_eq!(every_ms[..5], [0, 1, 2, 3, 4]);
        assert_eq!(every_ms[5..8], [100, 200, 300]);
    }

    #[test]
    fn no_rate_is_no_bound_and_no_burst_is_one() {
        assert_eq!(Rate::new(0, 5), None);
        assert_eq!(
            allowed(Rate::new(60, 0).unwrap(), [0, 0, 999, 1_000]),
            [0, 1_000]
        );
    }

    #[test]
    fn the_end_of_time_does_not_overflow() {
        let rate = Rate::new(1, u32::MAX).unwrap();
        assert!(Gcra::default().next(Tick(u64::MAX), rate).is_some());
    }

    proptest! {
        /// In no stretch of time does more pass than the burst and the rate allow.
        #[test]
        fn never_more_than_the_rate(
            per_minute in 1_u32..20_000,
            burst in 1_u32..50,
            gaps in prop::collection::vec(0_u64..400, 1..200),
        ) {
            let rate = Rate::new(per_minute, burst).unwrap();
            let arrivals = gaps.iter().scan(0, |at, gap| { *at += gap; Some(*at) });
            let allowed = allowed(rate, arrivals);
            for (first, &from) in allowed.iter().enumerate() {
                for (last, &to) in allowed.iter().enumerate().skip(first) {
                    let bound = u64::from(burst) + (to - from) * u64::from(per_minute) / 60_000 + 1;
                    prop_assert!((last - first) as u64 <= bound, "{from}..{to}");
                }
            }
        }

        /// Whoever keeps to the rate is never refused.
        #[test]
        fn who_keeps_the_rate_passes(per_minute in 1_u32..20_000, slack in prop::collection::vec(0_u64..50, 100)) {
            let rate = Rate::new(per_minute, 1).unwrap();
            let gap = 60_000_u64.div_ceil(u64::from(per_minute));
            let arrivals: Vec<_> = slack.iter().scan(0, |at, late| { *at += gap + late; Some(*at) }).collect();
            prop_assert_eq!(allowed(rate, arrivals.clone()), arrivals);
        }
    }
}
