//! What levee has counted and what state it is in, at one moment: the common source of metrics and
//! of `levee status`.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use xdp_common::verdict::{Action, Admission, Verdict};

use crate::{
    attach::Mode,
    datapath::Packets,
    proxy::{LimitEntries, runtime::ServiceRuntime, stats::WorkerStats},
    reap::Watched,
    splicing::{directory::SplicedService, stats::ThreadStats},
};

/// Everything at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Since levee started, seconds.
    pub uptime_s: f64,
    /// Whether the data path was taken over from an earlier controller, with its counters.
    pub adopted: bool,
    /// Epoch whose key makes the cookies.
    pub key_epoch: u64,
    /// Result of the last reload, or of the start.
    pub reload: Reload,
    /// Interfaces, in the order configured.
    pub interfaces: Vec<InterfaceSnapshot>,
    /// Services, in the order configured.
    pub services: Vec<ServiceSnapshot>,
    /// How full each map is, 0 to 1, by its name.
    pub map_pressure: Vec<(&'static str, f64)>,
    /// The proxy; `None` when no service needs it.
    pub proxy: Option<ProxySnapshot>,
    /// Spliced connections; `None` when no service needs them.
    pub splice: Option<SpliceSnapshot>,
}

/// Spliced connections. What is counted of them is read when it is looked at.
#[derive(Clone, Debug)]
pub struct SpliceSnapshot {
    /// Connections that there may be at a time.
    pub flows_max: u32,
    /// The services.
    pub services: Vec<Arc<SplicedService>>,
    /// What the splice thread counts.
    pub thread: Arc<ThreadStats>,
    /// Why there is no way to some targets, by slot.
    pub obstacles: Arc<HashMap<u16, String>>,
}

/// The proxy. What it counts is read when it is looked at.
#[derive(Clone, Debug)]
pub struct ProxySnapshot {
    /// Whether levee is stopping and waits for connections to end.
    pub draining: bool,
    /// Connections it may have at a time.
    pub connections_max: u32,
    /// The table of clients whose connections are counted.
    pub limit_entries: LimitEntries,
    /// Its services.
    pub services: Vec<Arc<ServiceRuntime>>,
    /// Its workers.
    pub workers: Vec<Arc<WorkerStats>>,
}

/// The result of reading the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reload {
    /// Whether the last attempt succeeded.
    pub successful: bool,
    /// When one last succeeded, in seconds since the Unix epoch.
    pub succeeded_unix_s: u64,
}

/// One interface.
#[derive(Clone, Debug)]
pub struct InterfaceSnapshot {
    /// Name.
    pub name: String,
    /// Index.
    pub index: u32,
    /// How the XDP program is attached.
    pub mode: Mode,
    /// Whether the program is still attached.
    pub attached: bool,
    /// Packets by verdict.
    pub packets: Packets,
    /// Packets per second by verdict, over the last second.
    pub rates: Packets,
}

/// One service.
#[derive(Clone, Debug)]
pub struct ServiceSnapshot {
    /// Name.
    pub name: String,
    /// Where clients connect to.
    pub address: SocketAddr,
    /// Packets by verdict and admission.
    pub packets: Packets,
    /// Cookies sent that have not come back, about.
    pub unproven: u64,
    /// How long the oldest of them has been out, seconds.
    pub unproven_oldest_s: u64,
    /// Its sockets in the kernel; `None` before they are looked at.
    pub kernel: Option<Arc<Watched>>,
}

impl Snapshot {
    /// Whether SYNs are answered on every interface.
    #[must_use]
    pub fn active(&self) -> bool {
        self.interfaces.iter().all(|interface| interface.attached)
    }

    /// Dropped packets of all interfaces by reason, the most frequent first, none that is zero.
    #[must_use]
    pub fn drops(&self) -> Vec<(Verdict, u64)> {
        let mut drops: Vec<_> = verdicts(Action::Drop)
            .map(|verdict| {
                let counted = self.interfaces.iter().map(|i| i.packets[verdict.slot()]);
                (verdict, counted.sum::<u64>())
            })
            .filter(|(_, packets)| *packets > 0)
            .collect();
        drops.sort_by_key(|(verdict, packets)| (u64::MAX - packets, verdict.slot()));
        drops
    }
}

impl ServiceSnapshot {
    /// SYN-ACKs sent, each with a cookie.
    #[must_use]
    pub const fn cookies_sent(&self) -> u64 {
        self.packets[Verdict::SynAck.slot()]
    }

    /// Segments that returned a valid cookie.
    #[must_use]
    pub const fn cookies_valid(&self) -> u64 {
        self.packets[Verdict::CookieValid.slot()]
    }

    /// Segments of no connection that returned no valid cookie.
    #[must_use]
    pub const fn cookies_invalid(&self) -> u64 {
        self.packets[Verdict::CookieInvalid.slot()]
    }

    /// What became of valid cookies.
    #[must_use]
    pub const fn admissions(&self, outcome: Admission) -> u64 {
        self.packets[outcome.slot()]
    }
}

/// The verdicts with an action.
pub fn verdicts(action: Action) -> impl Iterator<Item = Verdict> {
    let all = Verdict::ALL.iter().copied();
    all.filter(move |verdict| verdict.action() == action)
}

/// Packets with an action.
#[must_use]
pub fn by_action(packets: &Packets, action: Action) -> u64 {
    verdicts(action)
        .map(|verdict| packets[verdict.slot()])
        .sum()
}

#[cfg(test)]
pub(crate) mod fixture;
