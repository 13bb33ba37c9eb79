//! Numbers as people read them.
use std::time::Duration;

/// A rate or count in three significant digits: `950`, `18.7k`, `1.00M`.
#[must_use]
pub fn quantity(value: f64) -> String {
    let (scaled, unit) = if value >= 999_500.0 {
        (value / 1e6, "M")
    } else if value >= 999.5 {
        (value / 1e3, "k")
    } else {
        return format!("{value:.0}");
    };
    let decimals = if scaled >= 99.95 {
        0
    } else if scaled >= 9.995 {
        1
    } else {
        2
    };
    format!("{scaled:.decimals$}{unit}")
}

/// A latency in milliseconds; `-` when there was none to measure.
#[must_use]
pub fn latency(value: Option<Duration>) -> String {
    value.map_or_else(
        || "-".to_owned(),
        |time| format!("{:.1} ms", time.as_secs_f64() * 1e3),
    )
}

/// A share, 0 to 1, in percent, never rounded up to a success that was not: `99.9 %`.
#[must_use]
pub fn percent(share: Option<f64>) -> String {
    share.map_or_else(
        || "-".to_owned(),
        |share| format!("{:.1} %", (share * 1000.0).floor() / 10.0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_keep_three_digits() {
        let cases = [
            (0.0, "0"),
            (999.4, "999"),
            (999.6, "1.00k"),
            (18_740.0, "18.7k"),
            (999_400.0, "999k"),
            (999_600.0, "1.00M"),
            (11_078_247.0, "11.1M"),
        ];
        for (value, text) in cases {
            assert_eq!(quantity(value), text, "{value}");
        }
    }

    #[test]
    fn percentages_are_not_rounded_up() {
        assert_eq!(percent(Some(0.9999)), "99.9 %");
        assert_eq!(percent(Some(1.0)), "100.0 %");
        assert_eq!(percent(None), "-");
    }

    #[test]
    fn a_missing_latency_is_a_dash() {
        assert_eq!(latency(None), "-");
        assert_eq!(latency(Some(Duration::from_micros(1260))), "1.3 ms");
    }
}
