//! What the rounds measured, and their medians.
use serde::Serialize;

use super::system::System;
use crate::{bench::median::median, format::quantity};

/// One number.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(in crate::bench) struct Row {
    /// What was measured.
    pub(in crate::bench) scenario: String,
    /// Of which system: see [`System::name`].
    pub(in crate::bench) system: &'static str,
    /// The median over the rounds.
    pub(in crate::bench) value: f64,
    /// Of `value`.
    pub(in crate::bench) unit: &'static str,
}

/// Values by scenario and system, one per round.
#[derive(Default)]
pub(in crate::bench) struct Results {
    series: Vec<Series>,
}

struct Series {
    scenario: String,
    system: System,
    unit: &'static str,
    values: Vec<f64>,
}

impl Results {
    pub(in crate::bench) fn add(
        &mut self,
        scenario: &str,
        system: System,
        value: f64,
        unit: &'static str,
    ) {
        let known = self
            .series
            .iter_mut()
            .find(|series| series.scenario == scenario && series.system == system);
        match known {
            Some(series) => series.values.push(value),
            None => self.series.push(Series {
                scenario: scenario.to_owned(),
                system,
                unit,
                values: vec![value],
            }),
        }
    }

    /// Adds the latency of this round above that of a direct connection in the same round.
    pub(in crate::bench) fn add_latency(&mut self, systems: &[System]) {
        for quantile in ["p50", "p99"] {
            let scenario = format!("latency_{quantile}");
            let Some(direct) = self.latest(&scenario, System::Direct) else {
                continue;
            };
            for &system in systems.iter().filter(|&&system| system != System::Direct) {
                if let Some(value) = self.latest(&scenario, system) {
                    self.add(&format!("added_{scenario}"), system, value - direct, "µs");
                }
            }
        }
    }

    fn latest(&self, scenario: &str, system: System) -> Option<f64> {
        let mut series = self.series.iter();
        let series = series.find(|s| s.scenario == scenario && s.system == system)?;
        series.values.last().copied()
    }

    pub(in crate::bench) fn rows(self) -> Vec<Row> {
        let rows = self.series.into_iter().map(|mut series| Row {
            scenario: series.scenario,
            system: series.system.name(),
            value: median(&mut series.values),
            unit: series.unit,
        });
        rows.collect()
    }
}

pub(in crate::bench) fn print_table(rows: &[Row], systems: &[System]) {
    print!("{:<32}", "");
    for system in systems {
        print!(" {:>14}", system.name());
    }
    println!("  unit");
    let mut printed: Vec<&str> = Vec::new();
    for row in rows {
        if printed.contains(&row.scenario.as_str()) {
            continue;
        }
        printed.push(&row.scenario);
        print!("{:<32}", row.scenario);
        for system in systems {
            let value = rows
                .iter()
                .find(|other| other.scenario == row.scenario && other.system == system.name())
                .map_or_else(|| "-".to_owned(), |row| number(row.value));
            print!(" {value:>14}");
        }
        println!("  {}", row.unit);
    }
}

/// Three digits or so.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        ..0.01 => format!("{value:.4}"),
        ..100.0 => format!("{value:.2}"),
        ..1_000.0 => format!("{value:.1}"),
        _ => quantity(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_what_the_json_promises() {
        let mut results = Results::default();
        for value in [3.0, 1.0, 2.0] {
            results.add("bulk_1", System::NginxStream, value, "Gbit/s");
        }
        assert_eq!(
            serde_json::to_string(&results.rows()).unwrap(),
            r#"[{"scenario":"bulk_1","system":"nginx_stream","value":2.0,"unit":"Gbit/s"}]"#
        );
    }

    #[test]
    fn latency_is_added_to_that_of_the_same_round() {
        let mut results = Results::default();
        for (direct, levee) in [(40.0, 70.0), (50.0, 60.0)] {
            results.add("latency_p50", System::Direct, direct, "µs");
            results.add("latency_p50", System::Levee, levee, "µs");
            results.add_latency(&[System::Direct, System::Levee]);
        }
        let rows = results.rows();
        let added = rows.iter().find(|row| row.scenario == "added_latency_p50");
        assert_eq!(
            added.map(|row| (row.system, row.value)),
            Some(("levee", 10.0))
        );
        assert_eq!(rows.len(), 3);
    }
}
