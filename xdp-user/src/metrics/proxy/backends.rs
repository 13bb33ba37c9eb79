//! What is counted by address of a backend. With its address, a series ends when a name no longer
//! leads there.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use prometheus::proto::MetricFamily;

use super::DIRECTIONS;
use crate::{
    engine::{balancer::WEIGHT_UNIT, health::HealthState, reason::ConnectError, tcp::Side},
    metrics::family::{Family, flag},
    proxy::runtime::{BackendRuntime, ServiceRuntime},
};

/// A backend with its labels.
struct Labelled {
    service: String,
    address: String,
    backend: Arc<BackendRuntime>,
}

impl Labelled {
    fn labels(&self) -> [(&str, &str); 3] {
        [
            ("service", &self.service),
            ("backend", &self.backend.name),
            ("address", &self.address),
        ]
    }

    /// With one label more.
    fn labels_and<'l>(&'l self, name: &'l str, value: &'l str) -> [(&'l str, &'l str); 4] {
        let [service, backend, address] = self.labels();
        [service, backend, address, (name, value)]
    }
}

pub(in crate::metrics) fn families(services: &[Arc<ServiceRuntime>]) -> Vec<MetricFamily> {
    let mut backends = Vec::new();
    for service in services {
        let pool = service.pool.load();
        backends.extend(pool.backends.iter().map(|backend| Labelled {
            service: service.name.clone(),
            address: backend.address.to_string(),
            backend: Arc::clone(backend),
        }));
    }
    let mut families = state(&backends);
    families.extend(traffic(&backends));
    families.extend(checks(&backends));
    families.push(resolved(services));
    families
}

fn each(
    mut family: Family,
    backends: &[Labelled],
    value: fn(&BackendRuntime) -> f64,
) -> MetricFamily {
    for labelled in backends {
        family.add(&labelled.labels(), value(&labelled.backend));
    }
    family.build()
}

fn state(backends: &[Labelled]) -> Vec<MetricFamily> {
    let up = Family::gauge(
        "levee_backend_up",
        "Whether the backend may get new connections.",
    );
    let connections = Family::gauge(
        "levee_backend_connections",
        "Connections to the backend, those in progress included.",
    );
    let weight = Family::gauge(
        "levee_backend_weight",
        "The backend's share now; less than configured in a slow start.",
    );
    let mut states = Family::gauge(
        "levee_backend_state",
        "1 for the state that the backend is in, 0 for the others.",
    );
    for labelled in backends {
        let now = labelled.backend.state().label();
        for state in HealthState::LABELS {
            states.add(&labelled.labels_and("state", state), flag(state == now));
        }
    }
    vec![
        states.build(),
        each(up, backends, |b| flag(b.usable.load(Relaxed))),
        each(connections, backends, |b| b.active.load(Relaxed).into()),
        each(weight, backends, |b| {
            f64::from(b.weight_now.load(Relaxed)) / f64::from(WEIGHT_UNIT)
        }),
    ]
}

fn traffic(backends: &[Labelled]) -> Vec<MetricFamily> {
    let made = Family::counter(
        "levee_backend_connections_total",
        "Connections made to the backend.",
    );
    let mut failures = Family::counter(
        "levee_backend_failures_total",
        "Attempts to connect to the backend that failed, by reason.",
    );
    let mut bytes = Family::counter(
        "levee_backend_bytes_total",
        "Bytes passed on: in from clients to the backend, out from it to clients.",
    );
    for labelled in backends {
        let stats = &labelled.backend.stats;
        for error in ConnectError::ALL {
            let labels = labelled.labels_and("reason", error.label());
            failures.add(&labels, stats.failures[error.index()].get() as f64);
        }
        for side in Side::ALL {
            let labels = labelled.labels_and("direction", DIRECTIONS[side.index()]);
            bytes.add(&labels, stats.bytes[side.index()].get() as f64);
        }
    }
    vec![
        each(made, backends, |b| b.stats.connections.get() as f64),
        failures.build(),
        bytes.build(),
    ]
}

fn checks(backends: &[Labelled]) -> Vec<MetricFamily> {
    let mut checks = Family::counter(
        "levee_backend_checks_total",
        "Health checks of the backend, by result; not_done ones failed on this machine.",
    );
    let mut duration = Family::histogram(
        "levee_backend_check_duration_seconds",
        "How long health checks of the backend took.",
    );
    let ejections = Family::counter(
        "levee_backend_ejections_total",
        "Times the backend was taken out because connecting to it failed.",
    );
    for labelled in backends {
        let stats = &labelled.backend.stats;
        for (result, count) in [
            ("ok", &stats.checks_ok),
            ("failed", &stats.checks_failed),
            ("not_done", &stats.checks_not_done),
        ] {
            checks.add(&labelled.labels_and("result", result), count.get() as f64);
        }
        duration.add_histogram(&labelled.labels(), &stats.check_duration.snapshot());
    }
    vec![
        checks.build(),
        duration.build(),
        each(ejections, backends, |b| b.stats.ejections.get() as f64),
    ]
}

/// By configured backend: one whose name leads nowhere has no address.
fn resolved(services: &[Arc<ServiceRuntime>]) -> MetricFamily {
    let mut family = Family::gauge(
        "levee_backend_resolved",
        "Whether the last look-up of the backend's name succeeded; 1 where none is needed.",
    );
    for service in services {
        let backends = service.config.backends.iter().zip(&service.resolved);
        for (backend, resolved) in backends {
            let labels = [("service", &*service.name), ("backend", &*backend.name)];
            family.add(&labels, flag(resolved.load(Relaxed)));
        }
    }
    family.build()
}
