//! Metrics in Prometheus's text format, made from a snapshot whenever they are asked for.

use anyhow::{Context as _, Result};
use prometheus::{
    Encoder as _, Registry, TextEncoder,
    process_collector::ProcessCollector,
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};
use xdp_common::verdict::{Action, Admission};

use crate::snapshot::{ServiceSnapshot, Snapshot, by_action, verdicts};

/// The content type of what [`Metrics::render`] returns.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Renders metrics.
#[derive(Debug)]
pub struct Metrics {
    process: Registry,
}

impl Metrics {
    /// Includes the metrics of this process (`process_*`).
    ///
    /// # Errors
    /// Fails never, as far as known: the registry is new.
    pub fn new() -> Result<Self> {
        let process = Registry::new();
        process.register(Box::new(ProcessCollector::for_self()))?;
        Ok(Self { process })
    }

    /// The text for a snapshot; without one, as during the start, only what needs none.
    ///
    /// # Errors
    /// Fails when a family breaks Prometheus's rules, which a test excludes.
    pub fn render(&self, snapshot: Option<&Snapshot>) -> Result<String> {
        let mut families = vec![build_info()];
        if let Some(snapshot) = snapshot {
            families.extend(state(snapshot));
            families.extend(interfaces(snapshot));
            families.extend(services(snapshot));
        }
        families.extend(self.process.gather());
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text)?;
        String::from_utf8(text).context("metrics are not UTF-8")
    }
}

fn build_info() -> MetricFamily {
    Family::gauge("levee_build_info", "Version of levee; the value is 1.")
        .with(&[("version", env!("CARGO_PKG_VERSION"))], 1.0)
        .build()
}

fn state(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let pressure = Family::gauge(
        "levee_bpf_map_pressure",
        "How full a map of the data path is, 0 to 1. FRAGMENTS evicts its oldest entry when full.",
    );
    let pressure = snapshot
        .map_pressure
        .iter()
        .fold(pressure, |f, (map, value)| f.with(&[("map", map)], *value));
    vec![
        pressure.build(),
        Family::gauge(
            "levee_cookie_key_epoch",
            "Number of the 64-second epoch whose key makes the SYN cookies.",
        )
        .with(&[], snapshot.key_epoch as f64)
        .build(),
        Family::gauge(
            "levee_config_last_reload_successful",
            "Whether the last attempt to read the configuration succeeded.",
        )
        .with(&[], flag(snapshot.reload.successful))
        .build(),
        Family::gauge(
            "levee_config_last_reload_success_timestamp_seconds",
            "When the configuration was last read successfully, since the Unix epoch.",
        )
        .with(&[], snapshot.reload.succeeded_unix_s as f64)
        .build(),
    ]
}

fn interfaces(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let mut mode = Family::gauge(
        "levee_xdp_mode",
        "How the XDP program is attached: 1 for the mode in use, 0 when it was lost.",
    );
    let mut actions = Family::counter(
        "levee_xdp_packets_total",
        "Packets by what the XDP program did: pass to the kernel, answer (tx), drop.",
    );
    let mut drops = Family::counter(
        "levee_drop_packets_total",
        "Packets dropped by the XDP program, by reason.",
    );
    let mut passes = Family::counter(
        "levee_pass_packets_total",
        "Packets passed to the kernel by the XDP program, by reason.",
    );
    for interface in &snapshot.interfaces {
        let name = ("interface", interface.name.as_str());
        let in_use = [name, ("mode", interface.mode.label())];
        mode = mode.with(&in_use, flag(interface.attached));
        for action in Action::ALL {
            let packets = by_action(&interface.packets, action);
            actions = actions.with(&[name, ("action", action.label())], packets as f64);
        }
        let counted = |family: Family, action| {
            verdicts(action).fold(family, |family, verdict| {
                let labels = [name, ("reason", verdict.label())];
                family.with(&labels, interface.packets[verdict.slot()] as f64)
            })
        };
        drops = counted(drops, Action::Drop);
        passes = counted(passes, Action::Pass);
    }
    vec![mode.build(), actions.build(), drops.build(), passes.build()]
}

fn services(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let active = Family::gauge(
        "levee_protection_active",
        "Whether SYNs to the service are answered with cookies.",
    );
    let active = snapshot.services.iter().fold(active, |family, service| {
        family.with(&[("service", &service.name)], flag(snapshot.active()))
    });
    let per_service = |name, help, value: fn(&ServiceSnapshot) -> u64| {
        let family = Family::counter(name, help);
        let family = snapshot.services.iter().fold(family, |family, service| {
            family.with(&[("service", &service.name)], value(service) as f64)
        });
        family.build()
    };
    vec![
        active.build(),
        per_service(
            "levee_syncookies_sent_total",
            "SYN-ACKs sent with a cookie.",
            ServiceSnapshot::cookies_sent,
        ),
        per_service(
            "levee_syncookies_valid_total",
            "Segments that returned a valid cookie.",
            ServiceSnapshot::cookies_valid,
        ),
        per_service(
            "levee_syncookies_invalid_total",
            "Segments of no connection that returned no valid cookie.",
            ServiceSnapshot::cookies_invalid,
        ),
        per_service(
            "levee_connections_admitted_total",
            "Clients with a valid cookie that the kernel made a socket for.",
            |service| service.admissions(Admission::Admitted),
        ),
        admission_failures(snapshot),
    ]
}

fn admission_failures(snapshot: &Snapshot) -> MetricFamily {
    let mut family = Family::counter(
        "levee_admission_failures_total",
        "Clients with a valid cookie that got no socket: nobody listens, or the kernel refused.",
    );
    for service in &snapshot.services {
        for outcome in [Admission::NoListener, Admission::Refused] {
            let labels = [("service", &*service.name), ("reason", outcome.label())];
            family = family.with(&labels, service.admissions(outcome) as f64);
        }
    }
    family.build()
}

fn flag(value: bool) -> f64 {
    if value { 1.0 } else { 0.0 }
}

/// A metric family under construction.
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    metrics: Vec<Metric>,
}

impl Family {
    const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self::new(name, help, MetricType::GAUGE)
    }

    const fn counter(name: &'static str, help: &'static str) -> Self {
        Self::new(name, help, MetricType::COUNTER)
    }

    const fn new(name: &'static str, help: &'static str, kind: MetricType) -> Self {
        Self {
            name,
            help,
            kind,
            metrics: Vec::new(),
        }
    }

    /// Adds a value.
    fn with(mut self, labels: &[(&str, &str)], value: f64) -> Self {
        let labels = labels.iter().map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).into());
            pair.set_value((*value).into());
            pair
        });
        let mut metric = Metric::from_label(labels.collect());
        if self.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.metrics.push(metric);
        self
    }

    fn build(self) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.name.into());
        family.set_help(self.help.into());
        family.set_field_type(self.kind);
        family.set_metric(self.metrics);
        family
    }
}

#[cfg(test)]
mod promtool;
#[cfg(test)]
mod tests;
