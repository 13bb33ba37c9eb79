//! What the proxy counts. Every reason and every state is there from the start, at 0: a series
//! that begins with its first event has no rate for it.

use prometheus::proto::MetricFamily;

use super::family::Family;
use crate::{
    engine::{
        reason::{CloseReason, Refusal},
        tcp::{Side, TcpState},
    },
    proxy::{runtime::ServiceRuntime, stats::Histogram},
    snapshot::ProxySnapshot,
};

pub(super) mod backends;
mod workers;

/// The direction of bytes, by the [index](Side::index) of who sent them.
const DIRECTIONS: [&str; 2] = ["in", "out"];

pub(super) fn families(proxy: &ProxySnapshot) -> Vec<MetricFamily> {
    let mut families = connections(proxy);
    families.extend(ends(proxy));
    families.extend(workers::families(proxy));
    families
}

/// A family with one value per service.
pub(super) fn by_service(
    mut family: Family,
    proxy: &ProxySnapshot,
    value: impl Fn(&ServiceRuntime) -> u64,
) -> MetricFamily {
    for service in &proxy.services {
        family.add(&[("service", &service.name)], value(service) as f64);
    }
    family.build()
}

/// A family with one value per service and reason.
fn by_reason(
    mut family: Family,
    proxy: &ProxySnapshot,
    reasons: impl Iterator<Item = &'static str> + Clone,
    value: impl Fn(&ServiceRuntime, usize) -> u64,
) -> MetricFamily {
    for service in &proxy.services {
        for (index, reason) in reasons.clone().enumerate() {
            let labels = [("service", &*service.name), ("reason", reason)];
            family.add(&labels, value(service, index) as f64);
        }
    }
    family.build()
}

fn histogram(
    mut family: Family,
    proxy: &ProxySnapshot,
    value: fn(&ServiceRuntime) -> &Histogram,
) -> MetricFamily {
    for service in &proxy.services {
        family.add_histogram(&[("service", &service.name)], &value(service).snapshot());
    }
    family.build()
}

fn connections(proxy: &ProxySnapshot) -> Vec<MetricFamily> {
    let mut states = Family::gauge(
        "levee_connections",
        "Connections of the proxy by the state of one leg, by its RFC 9293 name.",
    );
    let mut bytes = Family::counter(
        "levee_proxy_bytes_total",
        "Bytes passed on by the proxy: in from clients, out to clients.",
    );
    for service in &proxy.services {
        let name = ("service", &*service.name);
        for side in Side::ALL {
            for &state in TcpState::ALL {
                let labels = [name, ("leg", side.label()), ("state", state.label())];
                let connections = service.stats.states[side.index()][state.index()].get();
                states.add(&labels, connections as f64);
            }
            let labels = [name, ("direction", DIRECTIONS[side.index()])];
            bytes.add(&labels, service.stats.bytes[side.index()].get() as f64);
        }
    }
    let connect = Family::histogram(
        "levee_backend_connect_duration_seconds",
        "From accepting a client to the SYN-ACK of a backend, retries included.",
    );
    let first_byte = Family::histogram(
        "levee_backend_first_byte_duration_seconds",
        "From the client's first byte, or the connection to a backend that speaks first, to the \
         backend's first byte.",
    );
    let limit = Family::gauge(
        "levee_service_limit_connections",
        "Connections that a service may have at a time; 0 for no bound of its own.",
    );
    vec![
        states.build(),
        bytes.build(),
        histogram(connect, proxy, |service| &service.stats.connect),
        histogram(first_byte, proxy, |service| &service.stats.first_byte),
        by_service(limit, proxy, |s| s.config.limits.service.into()),
    ]
}

fn ends(proxy: &ProxySnapshot) -> Vec<MetricFamily> {
    let accepted = Family::counter(
        "levee_connections_accepted_total",
        "Clients that the proxy accepted.",
    );
    let refused = Family::counter(
        "levee_connections_refused_total",
        "Clients that got a RST before a backend was asked, by reason.",
    );
    let closed = Family::counter(
        "levee_connections_closed_total",
        "Connections of the proxy that ended, by reason.",
    );
    let retries = Family::counter(
        "levee_backend_retries_total",
        "Connects to backends that were tried again.",
    );
    let refusals = Refusal::ALL.iter().map(|reason| reason.label());
    let reasons = CloseReason::ALL.iter().map(|reason| reason.label());
    vec![
        by_service(accepted, proxy, |service| service.stats.accepted.get()),
        by_reason(refused, proxy, refusals, |s, i| s.stats.refused[i].get()),
        by_reason(closed, proxy, reasons, |s, i| s.stats.closed[i].get()),
        by_service(retries, proxy, |service| service.stats.retries.get()),
    ]
}

pub(super) fn closed(service: &ServiceRuntime, reason: CloseReason) -> u64 {
    service.stats.closed[reason.index()].get()
}
