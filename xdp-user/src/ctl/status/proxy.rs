//! The proxy's part of the state.

use std::{collections::BTreeMap, net::SocketAddr, sync::atomic::Ordering::Relaxed};

use serde::{Deserialize, Serialize};

use crate::{
    engine::{
        balancer::WEIGHT_UNIT,
        reason::{CloseReason, ConnectError, Refusal},
        tcp::Side,
    },
    proxy::{
        runtime::{BackendRuntime, ServiceRuntime},
        stats::{Counter, WorkerStats},
    },
    snapshot::ProxySnapshot,
};

/// The proxy. Fields are only ever added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// Whether levee is stopping and waits for connections to end.
    pub draining: bool,
    /// Connections now.
    pub connections: u64,
    /// Connections it may have at a time.
    pub connections_max: u32,
    /// Its threads.
    pub workers: Vec<WorkerStatus>,
    /// Its services.
    pub services: Vec<ProxyServiceStatus>,
}

/// One thread of the proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Connections now.
    pub connections: u64,
    /// Bytes that wait because a receiver is slow.
    pub buffered_bytes: u64,
    /// Pipes that hold or may hold data.
    pub pipes_in_use: u64,
}

/// One service of the proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProxyServiceStatus {
    /// Name.
    pub name: String,
    /// Where clients connect to.
    pub address: SocketAddr,
    /// Connections now.
    pub active: u32,
    /// Clients accepted.
    pub accepted: u64,
    /// Connects to backends in progress now.
    pub half_open: u64,
    /// Age of the oldest of them, milliseconds.
    pub half_open_oldest_ms: u64,
    /// How many there may be at a time.
    pub half_open_max: u32,
    /// Connects tried again.
    pub retries: u64,
    /// Bytes from clients passed on.
    pub bytes_from_clients: u64,
    /// Bytes from backends passed on.
    pub bytes_from_backends: u64,
    /// Clients refused, by reason; none that is zero.
    pub refused: BTreeMap<String, u64>,
    /// Connections ended, by reason; none that is zero.
    pub closed: BTreeMap<String, u64>,
    /// Backends, by address.
    pub backends: Vec<BackendStatus>,
    /// Names of backends whose last look-up failed.
    pub unresolved: Vec<String>,
}

/// One address of a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Name.
    pub name: String,
    /// Where it is.
    pub address: SocketAddr,
    /// `unknown`, `up`, `down` or `ejected`.
    pub state: String,
    /// Whether it may get new connections.
    pub usable: bool,
    /// What was wrong at the last health check; `None` when nothing was, or none was done.
    pub check_error: Option<String>,
    /// Its share now.
    pub weight: f64,
    /// Connections now, those in progress included.
    pub active: u32,
    /// Connections made.
    pub connections: u64,
    /// Failed attempts to connect, by reason; none that is zero.
    pub failures: BTreeMap<String, u64>,
    /// Health checks that succeeded.
    pub checks_ok: u64,
    /// Health checks that failed.
    pub checks_failed: u64,
    /// Times it was taken out because connecting to it failed.
    pub ejections: u64,
}

/// What was counted, by label; none that is zero.
pub(super) fn counted<'l>(
    counted: impl Iterator<Item = (&'l str, &'l Counter)>,
) -> BTreeMap<String, u64> {
    let counted = counted.map(|(label, counter)| (label, counter.get()));
    let counted = counted.filter(|(_, count)| *count > 0);
    counted
        .map(|(label, count)| (label.into(), count))
        .collect()
}

impl From<&ProxySnapshot> for ProxyStatus {
    fn from(proxy: &ProxySnapshot) -> Self {
        let workers = proxy.workers.iter().map(|worker| worker_status(worker));
        let workers: Vec<_> = workers.collect();
        let connections = workers.iter().map(|worker| worker.connections);
        Self {
            draining: proxy.draining,
            connections: connections.sum(),
            connections_max: proxy.connections_max,
            services: proxy.services.iter().map(|s| service_status(s)).collect(),
            workers,
        }
    }
}

fn worker_status(stats: &WorkerStats) -> WorkerStatus {
    WorkerStatus {
        connections: stats.connections.get(),
        buffered_bytes: stats.buffered_bytes.get(),
        pipes_in_use: stats.pipes_in_use.get(),
    }
}

fn service_status(service: &ServiceRuntime) -> ProxyServiceStatus {
    let stats = &service.stats;
    let refused = Refusal::ALL.iter().map(|reason| reason.label());
    let closed = CloseReason::ALL.iter().map(|reason| reason.label());
    ProxyServiceStatus {
        name: service.name.clone(),
        address: service.address,
        active: service.active.load(Relaxed),
        accepted: stats.accepted.get(),
        half_open: stats.half_open.get(),
        half_open_oldest_ms: stats.half_open_oldest_ms.get(),
        half_open_max: service.config.half_open_max,
        retries: stats.retries.get(),
        bytes_from_clients: stats.bytes[Side::Client.index()].get(),
        bytes_from_backends: stats.bytes[Side::Backend.index()].get(),
        refused: counted(refused.zip(&stats.refused)),
        closed: counted(closed.zip(&stats.closed)),
        backends: service
            .pool
            .load()
            .backends
            .iter()
            .map(|backend| backend_status(backend))
            .collect(),
        unresolved: unresolved(service),
    }
}

fn unresolved(service: &ServiceRuntime) -> Vec<String> {
    let backends = service.config.backends.iter().zip(&service.resolved);
    let unresolved = backends.filter(|(_, resolved)| !resolved.load(Relaxed));
    unresolved
        .map(|(backend, _)| backend.name.clone())
        .collect()
}

pub(super) fn backend_status(backend: &BackendRuntime) -> BackendStatus {
    let stats = &backend.stats;
    let failures = ConnectError::ALL.iter().map(|error| error.label());
    BackendStatus {
        name: backend.name.clone(),
        address: backend.address,
        state: backend.state().label().into(),
        check_error: backend.last_check().and_then(|check| {
            let error = check.result.err()?;
            Some(error.to_string())
        }),
        usable: backend.usable.load(Relaxed),
        weight: f64::from(backend.weight_now.load(Relaxed)) / f64::from(WEIGHT_UNIT),
        active: backend.active.load(Relaxed),
        connections: stats.connections.get(),
        failures: counted(failures.zip(&stats.failures)),
        checks_ok: stats.checks_ok.get(),
        checks_failed: stats.checks_failed.get(),
        ejections: stats.ejections.get(),
    }
}
