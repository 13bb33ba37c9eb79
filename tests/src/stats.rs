//! Summaries of a client's connections.
use std::time::Duration;

use crate::client::Sample;

/// How a number of connections went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Connections that have ended, one way or the other.
    pub ended: usize,
    /// Those that got their page in time.
    pub succeeded: usize,
    /// Median time of the successful ones.
    pub p50: Option<Duration>,
    /// 99th percentile of the successful ones.
    pub p99: Option<Duration>,
}

impl Summary {
    /// Summarises samples.
    #[must_use]
    pub fn new(samples: &[Sample]) -> Self {
        let mut times: Vec<Duration> = samples
            .iter()
            .filter_map(|sample| sample.outcome.clone().ok())
            .collect();
        times.sort_unstable();
        Self {
            ended: samples.len(),
            succeeded: times.len(),
            p50: percentile(&times, 50),
            p99: percentile(&times, 99),
        }
    }

    /// Share that succeeded, 0 to 1; `None` when none has ended.
    #[must_use]
    pub fn success(&self) -> Option<f64> {
        (self.ended > 0).then(|| self.succeeded as f64 / self.ended as f64)
    }

    /// Whether at least 99 % succeeded, and there was at least one.
    #[must_use]
    pub fn succeeds(&self) -> bool {
        self.ended > 0 && self.succeeded * 100 >= self.ended * 99
    }
}

/// Nearest-rank percentile of sorted values.
fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(ok_ms: std::ops::RangeInclusive<u64>, failed: usize) -> Vec<Sample> {
        let ok = ok_ms.map(|ms| Ok(Duration::from_millis(ms)));
        let failed = std::iter::repeat_n(Err("timeout".to_owned()), failed);
        ok.chain(failed).map(|outcome| Sample { outcome }).collect()
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        let summary = Summary::new(&samples(1..=100, 0));
        assert_eq!(summary.p50, Some(Duration::from_millis(50)));
        assert_eq!(summary.p99, Some(Duration::from_millis(99)));
    }

    #[test]
    fn one_sample_is_every_percentile() {
        let summary = Summary::new(&samples(7..=7, 0));
        assert_eq!(
            (summary.p50, summary.p99),
            (Some(Duration::from_millis(7)), summary.p50)
        );
    }

    #[test]
    fn success_needs_99_of_100() {
        assert!(Summary::new(&samples(1..=99, 1)).succeeds());
        assert!(!Summary::new(&samples(1..=98, 2)).succeeds());
        assert!(!Summary::new(&[]).succeeds());
    }
}
