//! How long one of the kernel's jiffies is. The kernel does not tell userspace (`CONFIG_HZ`), so a
//! program that reads them is run twice, and the clock says how much time went by between.

use std::{thread, time::Duration, time::Instant};

use anyhow::{Result, bail};

/// The rates kernels are built with, in jiffies per second (`kernel/Kconfig.hz`).
const RATES: [u32; 4] = [100, 250, 300, 1000];

/// First distance between the two readings. Rates differ by a fifth or more, and a reading takes up
/// to some 30 ms, so that this mostly suffices.
const DISTANCE: Duration = Duration::from_millis(200);

/// Attempts, each over twice the distance of the one before.
const ATTEMPTS: u32 = 5;

/// The share of its ticks that a virtual machine may be late with, or make up for.
const DRIFT: f64 = 0.02;

/// Jiffies are read as their low 31 bits.
const JIFFIES_MASK: u32 = (1 << 31) - 1;

/// One reading of the jiffies, made some time between two readings of the clock.
#[derive(Clone, Copy, Debug)]
struct Reading {
    before: Instant,
    jiffies: u32,
    after: Instant,
}

/// Finds the kernel's rate, in jiffies per second, with a function that reads the low 31 bits of
/// the jiffies.
///
/// # Errors
/// Those of `read`; and when no usual rate fits what was read.
pub fn measure_hz(mut read: impl FnMut() -> Result<u32>) -> Result<u32> {
    let mut reading = || {
        let before = Instant::now();
        let jiffies = read()? & JIFFIES_MASK;
        let after = Instant::now();
        Ok::<_, anyhow::Error>(Reading {
            before,
            jiffies,
            after,
        })
    };
    let mut last = None;
    for attempt in 0..ATTEMPTS {
        let first = reading()?;
        thread::sleep(DISTANCE * 2_u32.pow(attempt));
        let second = reading()?;
        if let [rate] = fitting(first, second)[..] {
            return Ok(rate);
        }
        last = Some((first, second));
    }
    bail!("cannot tell how many jiffies this kernel counts per second, of {RATES:?}: {last:?}");
}

/// Milliseconds per jiffy, rounded down, at least 1.
#[must_use]
pub fn ms_per_jiffy(hz: u32) -> u32 {
    (1000 / hz).max(1)
}

/// The usual rates under which the two readings are possible.
fn fitting(first: Reading, second: Reading) -> Vec<u32> {
    let jiffies = f64::from(second.jiffies.wrapping_sub(first.jiffies) & JIFFIES_MASK);
    let least = (second.before - first.after).as_secs_f64();
    let most = (second.after - first.before).as_secs_f64();
    let fits = |rate: &u32| {
        let rate = f64::from(*rate);
        let (least, most) = (rate * least * (1.0 - DRIFT), rate * most * (1.0 + DRIFT));
        // A jiffy that had just begun at either end makes a difference of one.
        (least - 1.0..=most + 1.0).contains(&jiffies)
    };
    RATES.into_iter().filter(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(jiffies: [u32; 2], apart_ms: u64, takes_ms: u64) -> (Reading, Reading) {
        let start = Instant::now();
        let at = |ms, jiffies| Reading {
            before: start + Duration::from_millis(ms),
            jiffies,
            after: start + Duration::from_millis(ms + takes_ms),
        };
        (at(0, jiffies[0]), at(takes_ms + apart_ms, jiffies[1]))
    }

    #[test]
    fn exact_readings_name_the_rate() {
        for rate in RATES {
            let (first, second) = readings([5, 5 + rate / 5], 200, 1);
            assert_eq!(fitting(first, second), [rate]);
        }
    }

    #[test]
    fn the_counter_may_wrap() {
        let (first, second) = readings([JIFFIES_MASK - 9, 40], 200, 0);
        assert_eq!(fitting(first, second), [250]);
    }

    #[test]
    fn a_virtual_machine_may_lose_some_ticks() {
        let (first, second) = readings([0, 796], 3200, 0);
        assert_eq!(fitting(first, second), [250]);
    }

    #[test]
    fn slow_readings_are_ambiguous_rather_than_wrong() {
        let (first, second) = readings([0, 60], 200, 24);
        assert_eq!(fitting(first, second), [250, 300]);
    }

    #[test]
    fn a_counter_that_stands_still_is_an_error() {
        let mut calls = 0;
        let stuck = measure_hz(|| {
            calls += 1;
            if calls > 2 {
                bail!("enough");
            }
            Ok(7)
        });
        assert_eq!(stuck.unwrap_err().to_string(), "enough");
    }

    #[test]
    fn a_simulated_kernel_is_measured() {
        let start = Instant::now();
        let hz = measure_hz(|| Ok((start.elapsed().as_secs_f64() * 1000.0) as u32)).unwrap();
        assert_eq!(hz, 1000);
    }

    #[test]
    fn milliseconds_are_rounded_down_and_not_zero() {
        assert_eq!([100, 250, 300, 1000].map(ms_per_jiffy), [10, 4, 3, 1]);
        assert_eq!(ms_per_jiffy(2000), 1);
    }
}
