//! Metrics in Prometheus's text format, made from a snapshot whenever they are asked for.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use prometheus::{
    Encoder as _, Registry, TextEncoder, process_collector::ProcessCollector, proto::MetricFamily,
};

use self::family::{Family, flag};
use crate::{engine::reason::CloseReason, proxy::runtime::ServiceRuntime, snapshot::Snapshot};

mod datapath;
mod family;
mod half_open;
mod proxy;
mod splice;

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
            families.extend(datapath::interfaces(snapshot));
            families.extend(datapath::services(snapshot));
            families.extend(half_open::families(snapshot));
            families.push(reaped(snapshot));
            families.extend(snapshot.proxy.iter().flat_map(proxy::families));
            families.extend(proxy::backends::families(&with_backends(snapshot)));
            families.extend(snapshot.splice.iter().flat_map(splice::families));
        }
        let process = self.process.gather();
        if snapshot.is_some_and(|snapshot| snapshot.proxy.is_some()) {
            families.extend(fds(&process));
        }
        families.extend(process);
        // The encoder takes a family that nothing belongs to for a mistake.
        families.retain(|family| !family.get_metric().is_empty());
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text)?;
        String::from_utf8(text).context("metrics are not UTF-8")
    }
}

/// What the process's own metrics say of file descriptors, of which the proxy takes nearly all.
fn fds(process: &[MetricFamily]) -> Vec<MetricFamily> {
    let value = |name| {
        let family = process.iter().find(|family| family.name() == name)?;
        Some(family.get_metric().first()?.get_gauge().get_value())
    };
    let open = Family::gauge(
        "levee_proxy_fds",
        "File descriptors in use: two for each connection and each pipe of the proxy, and some.",
    );
    let limit = Family::gauge(
        "levee_proxy_fds_limit",
        "File descriptors that levee may have.",
    );
    [(open, "process_open_fds"), (limit, "process_max_fds")]
        .into_iter()
        .filter_map(|(family, name)| Some(family.with(&[], value(name)?).build()))
        .collect()
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
            "levee_datapath_adopted",
            "Whether the data path was taken over from an earlier levee, with its counters.",
        )
        .with(&[], flag(snapshot.adopted))
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

fn reaped(snapshot: &Snapshot) -> MetricFamily {
    let mut family = Family::counter(
        "levee_connections_reaped_total",
        "Connections that levee ended because their time was over, by reason. Those of services in \
         host mode are the server's sockets in CLOSE_WAIT.",
    );
    for watched in snapshot.services.iter().filter_map(|s| s.kernel.as_ref()) {
        if watched.reap_close_wait.is_some() {
            let reason = CloseReason::CloseWaitTimeout.label();
            let labels = [("service", &*watched.name), ("reason", reason)];
            family.add(&labels, watched.stats.reaped_close_wait.get() as f64);
        }
    }
    for service in snapshot.proxy.iter().flat_map(|proxy| &proxy.services) {
        for reason in CloseReason::ALL.iter().filter(|reason| reason.is_reaped()) {
            let labels = [("service", &*service.name), ("reason", reason.label())];
            family.add(&labels, proxy::closed(service, *reason) as f64);
        }
    }
    for service in snapshot.splice.iter().flat_map(|splice| &splice.services) {
        for reason in CloseReason::ALL.iter().filter(|reason| reason.is_reaped()) {
            let labels = [
                ("service", &*service.runtime.name),
                ("reason", reason.label()),
            ];
            let reaped = &service.stats.closed[reason.index()];
            family.add(&labels, reaped.get() as f64);
        }
    }
    family.build()
}

/// The services that have backends.
fn with_backends(snapshot: &Snapshot) -> Vec<Arc<ServiceRuntime>> {
    let proxied = snapshot.proxy.iter().flat_map(|proxy| &proxy.services);
    let spliced = snapshot.splice.iter().flat_map(|splice| &splice.services);
    let spliced = spliced.map(|service| &service.runtime);
    proxied.chain(spliced).map(Arc::clone).collect()
}

#[cfg(test)]
mod promtool;
#[cfg(test)]
mod tests;
