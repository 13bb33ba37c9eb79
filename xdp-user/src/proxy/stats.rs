//! What the proxy counts. Everything is an atomic that workers add to and metrics read; nothing
//! is ordered by it.

use std::{
    array,
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::engine::{
    reason::{AcceptError, CloseReason, ConnectError, Refusal},
    tcp::TcpState,
};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Adds one.
    pub fn count(&self) {
        self.add(1);
    }

    /// The number.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that grows and shrinks.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Puts `value` in its place.
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    /// The number; below 0 it is 0: readers may see one worker's decrease before another's
    /// increase.
    #[must_use]
    pub fn get(&self) -> u64 {
        u64::try_from(self.0.load(Relaxed)).unwrap_or(0)
    }
}

/// Durations by powers of two, from 16 µs to 134 s and beyond.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; Self::BUCKETS],
    sum_us: Counter,
}

/// What a histogram held at one time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistogramSnapshot {
    /// Observations by bucket, not cumulated; the last has no upper bound.
    pub counts: [u64; Histogram::BUCKETS],
    /// Sum of all observations, seconds.
    pub sum_s: f64,
}

impl Histogram {
    /// Buckets, the last of which has no upper bound.
    pub const BUCKETS: usize = 25;

    const FIRST_US: u64 = 16;

    /// Upper bound of a bucket, seconds; infinite for the last.
    #[must_use]
    pub fn upper_bound_s(bucket: usize) -> f64 {
        if bucket + 1 >= Self::BUCKETS {
            return f64::INFINITY;
        }
        (Self::FIRST_US << bucket) as f64 / 1e6
    }

    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let above = us.div_ceil(Self::FIRST_US).max(1);
        let bucket = above.next_power_of_two().trailing_zeros() as usize;
        self.buckets[bucket.min(Self::BUCKETS - 1)].count();
        self.sum_us.add(us);
    }

    /// What it holds now.
    #[must_use]
    pub fn snapshot(&self) -> HistogramSnapshot {
        HistogramSnapshot {
            counts: array::from_fn(|bucket| self.buckets[bucket].get()),
            sum_s: self.sum_us.get() as f64 / 1e6,
        }
    }
}

/// What is counted by service.
#[derive(Debug, Default)]
pub struct ServiceStats {
    /// Clients accepted.
    pub accepted: Counter,
    /// Clients refused, by [`Refusal::index`].
    pub refused: [Counter; Refusal::COUNT],
    /// Connections ended, by [`CloseReason::index`].
    pub closed: [Counter; CloseReason::COUNT],
    /// Connections now, by `Side::index` and [`TcpState::index`] of that leg.
    pub states: [[Gauge; TcpState::COUNT]; 2],
    /// Bytes passed on, by the `Side::index` of who sent them.
    pub bytes: [Counter; 2],
    /// From accept to the backend's SYN-ACK, retries included.
    pub connect: Histogram,
    /// From the first byte of the client to the first byte of the backend, or from the connection
    /// being made where the backend speaks first.
    pub first_byte: Histogram,
    /// Connects tried again.
    pub retries: Counter,
    /// Connects in progress now.
    pub half_open: Gauge,
    /// Age of the oldest connect in progress, milliseconds.
    pub half_open_oldest_ms: Gauge,
}

/// What is counted by worker.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// Connections now.
    pub connections: Gauge,
    /// Bytes that wait in levee because a receiver is slow.
    pub buffered_bytes: Gauge,
    /// Reads that were cut short because as many bytes waited as may.
    pub buffer_full: Counter,
    /// Pipes that hold or may hold data.
    pub pipes_in_use: Gauge,
    /// Pipes kept for use.
    pub pipes_idle: Gauge,
    /// Pipes thrown away with data in them.
    pub pipes_discarded: Counter,
    /// Failures of `accept`, by [`AcceptError::index`].
    pub accept_errors: [Counter; AcceptError::COUNT],
    /// Deadlines looked at because their time had come.
    pub wheel_fired: Counter,
    /// Time spent looking at deadlines, microseconds.
    pub wheel_busy_us: Counter,
    /// Tasks that panicked.
    pub panics: Counter,
}

/// What is counted by backend address.
#[derive(Debug, Default)]
pub struct BackendStats {
    /// Connections made.
    pub connections: Counter,
    /// Failed attempts to connect, by [`ConnectError::index`].
    pub failures: [Counter; ConnectError::COUNT],
    /// Bytes passed on, by the `Side::index` of who sent them.
    pub bytes: [Counter; 2],
    /// Health checks that succeeded.
    pub checks_ok: Counter,
    /// Health checks that failed.
    pub checks_failed: Counter,
    /// Health checks that this machine could not make.
    pub checks_not_done: Counter,
    /// How long checks took.
    pub check_duration: Histogram,
    /// Times it was ejected.
    pub ejections: Counter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_the_bucket_whose_bound_it_does_not_exceed() {
        for us in [
            0,
            1,
            15,
            16,
            17,
            32,
            33,
            1_000,
            999_999,
            134_217_728,
            134_217_729,
            u64::MAX / 2,
        ] {
            let histogram = Histogram::default();
            histogram.observe(Duration::from_micros(us));
            let bucket = histogram
                .snapshot()
                .counts
                .iter()
                .position(|&n| n == 1)
                .unwrap();
            let seconds = us as f64 / 1e6;
            assert!(
                seconds <= Histogram::upper_bound_s(bucket),
                "{us}: {bucket}"
            );
            assert!(
                bucket == 0 || seconds > Histogram::upper_bound_s(bucket - 1),
                "{us}: {bucket}"
            );
        }
    }

    #[test]
    fn a_gauge_is_never_below_zero_for_its_reader() {
        let gauge = Gauge::default();
        gauge.add(-1);
        assert_eq!(gauge.get(), 0);
        gauge.add(3);
        assert_eq!(gauge.get(), 2);
    }
}
