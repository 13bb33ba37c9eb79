//! The part of the state that is about spliced connections.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

use super::proxy::{BackendStatus, backend_status, counted};
use crate::{
    engine::{handshake::outcome::Outcome, reason::CloseReason},
    snapshot::SpliceSnapshot,
    splicing::{directory::SplicedService, stats::STATES},
};

/// Spliced connections. Fields are only ever added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpliceStatus {
    /// Connections in the table, those included that ended a moment ago.
    pub flows: u64,
    /// How many there may be.
    pub flows_max: u32,
    /// The services.
    pub services: Vec<SpliceServiceStatus>,
}

/// One spliced service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpliceServiceStatus {
    /// Name.
    pub name: String,
    /// Where clients connect to.
    pub address: SocketAddr,
    /// Connections by state, at the last sweep; none that is zero.
    pub states: BTreeMap<String, u64>,
    /// Age of the oldest handshake in progress, milliseconds.
    pub half_open_oldest_ms: u64,
    /// How many handshakes there may be in progress.
    pub half_open_max: u32,
    /// Handshakes that ended, by outcome; none that is zero.
    pub handshakes: BTreeMap<String, u64>,
    /// Connections that ended, by reason; none that is zero.
    pub closed: BTreeMap<String, u64>,
    /// Whether the TCP of its backends differs.
    pub backends_differ: bool,
    /// Backends, by address.
    pub backends: Vec<TargetStatus>,
}

/// One address of a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetStatus {
    /// As of a proxy's backend.
    #[serde(flatten)]
    pub backend: BackendStatus,
    /// What its TCP agrees to; `None` before a health check has found out.
    pub agreed: Option<String>,
    /// Why there is no way to it; `None` if there is.
    pub obstacle: Option<String>,
}

impl From<&SpliceSnapshot> for SpliceStatus {
    fn from(splice: &SpliceSnapshot) -> Self {
        let services = splice.services.iter();
        Self {
            flows: splice.thread.flows.get(),
            flows_max: splice.flows_max,
            services: services
                .map(|service| service_status(service, splice))
                .collect(),
        }
    }
}

fn service_status(service: &SplicedService, splice: &SpliceSnapshot) -> SpliceServiceStatus {
    let stats = &service.stats;
    let states = STATES.iter().zip(&stats.states);
    let states = states.map(|(state, gauge)| ((*state).into(), gauge.get()));
    let outcomes = Outcome::ALL.iter().map(|outcome| outcome.label());
    let closed = CloseReason::ALL.iter().map(|reason| reason.label());
    let targets = service.targets.iter();
    SpliceServiceStatus {
        name: service.runtime.name.clone(),
        address: service.runtime.address,
        states: states.filter(|(_, count)| *count > 0).collect(),
        half_open_oldest_ms: stats.half_open_oldest_ms.get(),
        half_open_max: service.engine.half_open_max,
        handshakes: counted(outcomes.zip(&stats.outcomes)),
        closed: counted(closed.zip(&stats.closed)),
        backends_differ: service.backends_differ(),
        backends: targets
            .map(|target| TargetStatus {
                backend: backend_status(&target.backend),
                agreed: target.backend.agreed().map(|agreed| agreed.describe()),
                obstacle: splice.obstacles.get(&target.slot).cloned(),
            })
            .collect(),
    }
}
