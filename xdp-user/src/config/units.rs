//! Durations, sizes and rates as they are written in the configuration and on the command line.

use std::{ops::RangeInclusive, time::Duration};

use super::field::{Judged, quoted, refusal};

/// A unit's name and how many of the smallest unit it is.
type Unit = (&'static str, u64);

/// In milliseconds, the largest first.
const DURATION_UNITS: [Unit; 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// In bytes, the largest first.
const SIZE_UNITS: [Unit; 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// New connections per minute that a client may be limited to: up to a million per second.
const RATE_RANGE: RangeInclusive<u64> = 1..=60_000_000;

/// A number with a unit, such as `30s`.
fn quantity(text: &str, units: &[Unit]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// A quantity in the largest unit that it is a multiple of.
fn written(value: u64, units: &[Unit]) -> String {
    let fits = units
        .iter()
        .find(|(_, factor)| value != 0 && value.is_multiple_of(*factor));
    match fits {
        Some((name, factor)) => format!("{}{name}", value / factor),
        None => "0s".into(),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A duration in the words of the configuration.
pub(super) fn written_duration(duration: Duration) -> String {
    written(millis(duration), &DURATION_UNITS)
}

fn in_range(text: &str, range: &RangeInclusive<Duration>) -> Option<Duration> {
    let duration = Duration::from_millis(quantity(text, &DURATION_UNITS)?);
    range.contains(&duration).then_some(duration)
}

fn durations(range: &RangeInclusive<Duration>) -> String {
    let [least, most] = [range.start(), range.end()].map(|end| written_duration(*end));
    format!("a duration from {least} to {most}, in ms, s, m, h or d, such as \"30s\"")
}

/// A duration within a range.
pub(super) fn duration(text: &str, range: &RangeInclusive<Duration>) -> Judged<Duration> {
    in_range(text, range).ok_or_else(|| refusal(quoted(text), &durations(range)))
}

/// A duration within a range, or `None` for "off".
pub(super) fn duration_or_off(
    text: &str,
    range: &RangeInclusive<Duration>,
) -> Judged<Option<Duration>> {
    if text == "off" {
        return Ok(None);
    }
    in_range(text, range).map(Some).ok_or_else(|| {
        let allowed = format!("\"off\", or {}", durations(range));
        refusal(quoted(text), &allowed)
    })
}

/// A size within a range, bytes.
pub(super) fn size(text: &str, range: &RangeInclusive<u64>) -> Judged<u64> {
    let size = quantity(text, &SIZE_UNITS).filter(|size| range.contains(size));
    size.ok_or_else(|| {
        let [least, most] = [range.start(), range.end()].map(|end| written(*end, &SIZE_UNITS));
        let allowed =
            format!("a size from {least} to {most}, in B, KiB, MiB or GiB, such as \"64MiB\"");
        refusal(quoted(text), &allowed)
    })
}

/// New connections per minute, or `None` for "off".
pub(super) fn rate(text: &str) -> Judged<Option<u32>> {
    if text == "off" {
        return Ok(None);
    }
    let per_minute = quantity(text, &[("/s", 60), ("/m", 1)]);
    let per_minute = per_minute.filter(|rate| RATE_RANGE.contains(rate));
    per_minute
        .and_then(|rate| u32::try_from(rate).ok())
        .map(Some)
        .ok_or_else(|| {
            refusal(
                quoted(text),
                "\"off\", or a rate from 1/m to 1000000/s, such as \"100/s\" or \"600/m\"",
            )
        })
}

/// A duration of any length, milliseconds, as the filters of `levee connections` take it.
///
/// # Errors
/// Says what was found and what is allowed.
pub fn parse_duration_ms(text: &str) -> Result<u64, String> {
    quantity(text, &DURATION_UNITS).ok_or_else(|| {
        refusal(
            quoted(text),
            "a duration in ms, s, m, h or d, such as \"30s\"",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(300);

    #[test]
    fn durations_are_numbers_with_a_unit() {
        for (text, ms) in [("10ms", 10), ("3s", 3000), ("5m", 300_000), ("007s", 7000)] {
            assert_eq!(
                duration(text, &RANGE),
                Ok(Duration::from_millis(ms)),
                "{text}"
            );
        }
        assert_eq!(parse_duration_ms("24d"), Ok(2_073_600_000));
        let refused = [
            "",
            "5",
            "s",
            "9ms",
            "301s",
            "6m",
            "1.5s",
            "-1s",
            "1 s",
            "1S",
            "1w",
            "1s1s",
            "+1s",
            "99999999999999999999s",
            "18446744073709551615d",
            "٣s",
        ];
        for text in refused {
            let error = duration(text, &RANGE).unwrap_err();
            let allowed = "allowed: a duration from 10ms to 5m, in ms, s, m, h or d, such as";
            assert!(
                error.starts_with(&format!("found {text:?}, {allowed}")),
                "{error}"
            );
        }
        assert_eq!(duration_or_off("off", &RANGE), Ok(None));
        let error = duration_or_off("on", &RANGE).unwrap_err();
        assert!(
            error.contains("allowed: \"off\", or a duration from 10ms"),
            "{error}"
        );
    }

    #[test]
    fn sizes_are_bytes() {
        let range = 1 << 20..=1 << 36;
        assert_eq!(size("64MiB", &range), Ok(64 << 20));
        assert_eq!(size("1048576B", &range), Ok(1 << 20));
        for text in ["64MB", "64", "1KiB", "65GiB", "18446744073709551615GiB"] {
            let error = size(text, &range).unwrap_err();
            assert!(
                error.contains("allowed: a size from 1MiB to 64GiB"),
                "{error}"
            );
        }
    }

    #[test]
    fn rates_are_per_minute() {
        assert_eq!(rate("off"), Ok(None));
        assert_eq!(rate("1/m"), Ok(Some(1)));
        assert_eq!(rate("100/s"), Ok(Some(6000)));
        assert_eq!(rate("1000000/s"), Ok(Some(60_000_000)));
        for text in ["0/s", "1000001/s", "5/h", "5", "/s", "5 /s"] {
            assert!(
                rate(text).unwrap_err().contains("from 1/m to 1000000/s"),
                "{text}"
            );
        }
    }
}
