//! Bisection for the highest rate that a system stands.

/// The rates that are tried: from `start` per second, each `step` times the one before.
#[derive(Clone, Copy)]
pub(super) struct Ladder {
    pub(super) start: f64,
    pub(super) step: f64,
    pub(super) rungs: usize,
}

impl Ladder {
    /// The rate of a rung, from 1.
    pub(super) fn rate(&self, rung: usize) -> u64 {
        (self.start * self.step.powi(rung as i32 - 1)) as u64
    }
}

/// Bisection over the rungs: all up to `low` are known (or taken) to succeed, all from `high` on to
/// fail.
pub(super) struct Search {
    low: usize,
    high: usize,
    /// Highest rate offered in a trial that succeeded; 0 if none did.
    pub(super) best: f64,
}

/// What one trial found.
pub(super) struct Trial {
    pub(super) offered: f64,
    pub(super) succeeded: bool,
}

impl Search {
    pub(super) fn new(ladder: Ladder) -> Self {
        Self {
            low: 0,
            high: ladder.rungs + 1,
            best: 0.0,
        }
    }

    /// The rung to try next, from 1; `None` when the search is over.
    pub(super) fn next_rung(&self) -> Option<usize> {
        (self.high - self.low > 1).then(|| self.low.midpoint(self.high))
    }

    pub(super) fn record(&mut self, rung: usize, trial: Trial) {
        if trial.succeeded {
            self.low = rung;
            self.best = self.best.max(trial.offered);
        } else {
            self.high = rung;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LADDER: Ladder = Ladder {
        start: 10_000.0,
        step: 1.08,
        rungs: 90,
    };

    fn search(stands: f64) -> f64 {
        let mut search = Search::new(LADDER);
        while let Some(rung) = search.next_rung() {
            let offered = LADDER.rate(rung) as f64;
            search.record(
                rung,
                Trial {
                    offered,
                    succeeded: offered <= stands,
                },
            );
        }
        search.best
    }

    #[test]
    fn the_search_finds_the_highest_rung_that_succeeds() {
        for stands in [10_000.0, 200_000.0, 3_000_000.0] {
            let best = search(stands);
            assert!(
                best <= stands && best * LADDER.step > stands - 1.0,
                "{stands}: {best}"
            );
        }
        assert_eq!(search(1.0), 0.0);
        assert_eq!(search(f64::INFINITY), LADDER.rate(LADDER.rungs) as f64);
    }
}
