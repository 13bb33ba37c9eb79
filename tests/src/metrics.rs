//! Reads Prometheus' text format, as far as levee writes it.
use anyhow::{Context as _, Result};

/// One scrape.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    series: Vec<Series>,
}

#[derive(Clone, Debug, PartialEq)]
struct Series {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    /// Parses the body of a scrape.
    ///
    /// # Errors
    /// Quotes the first line that is not a series.
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let series = lines
            .map(|line| parse_line(line).with_context(|| format!("not a metric: {line}")))
            .collect::<Result<_>>()?;
        Ok(Self { series })
    }

    /// Sum of all series with this name and (at least) these labels; 0 when there is none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name)
            .filter(|series| {
                labels
                    .iter()
                    .all(|(key, value)| series.label(key) == Some(value))
            })
            .map(|series| series.value)
            .sum()
    }

    /// Sums per value of a label, in order of first appearance.
    #[must_use]
    pub fn by_label(&self, name: &str, label: &str) -> Vec<(String, f64)> {
        let mut sums: Vec<(String, f64)> = Vec::new();
        for series in self.matching(name) {
            let key = series.label(label).unwrap_or_default();
            match sums.iter_mut().find(|(seen, _)| seen == key) {
                Some((_, sum)) => *sum += series.value,
                None => sums.push((key.to_owned(), series.value)),
            }
        }
        sums
    }

    fn matching<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Series> {
        self.series.iter().filter(move |series| series.name == name)
    }
}

impl Series {
    fn label(&self, key: &str) -> Option<&str> {
        let (_, value) = self.labels.iter().find(|(name, _)| name == key)?;
        Some(value)
    }
}

fn parse_line(line: &str) -> Option<Series> {
    let (series, value) = match line.rsplit_once('}') {
        Some((series, value)) => (series, value.trim()),
        None => line.split_once(' ')?,
    };
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    Some(Series {
        name: name.to_owned(),
        labels: parse_labels(labels)?,
        value: value.trim().parse().ok()?,
    })
}

/// `key="value",...` with the escapes `\\`, `\"` and `\n`.
fn parse_labels(mut rest: &str) -> Option<Vec<(String, String)>> {
    let mut labels = Vec::new();
    while !rest.is_empty() {
        let (key, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.push((key.trim_start_matches(',').to_owned(), value));
        rest = after.get(end + 1..)?;
    }
    Some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRAPE: &str = "# HELP levee_drop_packets_total Drops.\n\
        # TYPE levee_drop_packets_total counter\n\
        levee_drop_packets_total{interface=\"eth0\",reason=\"bad_cookie\"} 5\n\
        levee_drop_packets_total{interface=\"eth1\",reason=\"bad_cookie\"} 7\n\
        levee_drop_packets_total{interface=\"eth0\",reason=\"a \\\"b\\\", {c}\"} 1e3\n\
        process_threads 3\n";

    #[test]
    fn sums_by_label() {
        let metrics = Metrics::parse(SCRAPE).unwrap();
        let name = "levee_drop_packets_total";
        assert_eq!(metrics.sum(name, &[]), 1012.0);
        assert_eq!(
            metrics.sum(name, &[("interface", "eth0"), ("reason", "bad_cookie")]),
            5.0
        );
        assert_eq!(metrics.sum("process_threads", &[]), 3.0);
        assert_eq!(
            metrics.by_label(name, "reason"),
            [
                ("bad_cookie".to_owned(), 12.0),
                ("a \"b\", {c}".to_owned(), 1000.0)
            ]
        );
    }

    #[test]
    fn nonsense_is_an_error_that_quotes_it() {
        let error = Metrics::parse("levee_up maybe\n").unwrap_err();
        assert_eq!(error.to_string(), "not a metric: levee_up maybe");
    }
}
