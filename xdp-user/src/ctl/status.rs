//! The state of levee as `levee status --json` prints it.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};
use xdp_common::verdict::{Action, Admission, Verdict};

pub(super) use proxy::{BackendStatus, ProxyServiceStatus, ProxyStatus};
pub(super) use splice::{SpliceServiceStatus, SpliceStatus, TargetStatus};

use crate::snapshot::{InterfaceSnapshot, ServiceSnapshot, Snapshot, by_action};

mod proxy;
mod splice;

/// The state of a running levee. Fields are only ever added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the running levee.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Since it started, seconds.
    pub uptime_s: f64,
    /// Whether SYNs are answered on every interface.
    pub active: bool,
    /// Whether the data path was taken over from an earlier levee, with its counters.
    #[serde(default)]
    pub adopted: bool,
    /// Epoch whose key makes the cookies.
    pub key_epoch: u64,
    /// Whether the last attempt to read the configuration succeeded.
    pub last_reload_successful: bool,
    /// When one last succeeded, in seconds since the Unix epoch.
    pub last_reload_success_unix_s: u64,
    /// Interfaces, in the order configured.
    pub interfaces: Vec<InterfaceStatus>,
    /// Services, in the order configured.
    pub services: Vec<ServiceStatus>,
    /// Dropped packets of all interfaces by reason, the most frequent first, none that is zero.
    pub drops: Vec<Drops>,
    /// The proxy; `None` when no service needs it.
    #[serde(default)]
    pub proxy: Option<ProxyStatus>,
    /// Spliced connections; `None` when no service needs them.
    #[serde(default)]
    pub splice: Option<SpliceStatus>,
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Name.
    pub name: String,
    /// Index.
    pub index: u32,
    /// `native` or `generic`.
    pub mode: String,
    /// Whether the XDP program is still attached.
    pub attached: bool,
    /// Packets since the start, by action.
    pub packets: Actions,
    /// Packets in the last second, by action.
    pub packets_per_s: Actions,
    /// Packets since the start, by reason.
    pub reasons: BTreeMap<String, u64>,
}

/// Packets by what the XDP program did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actions {
    /// Passed to the kernel.
    pub pass: u64,
    /// Answered.
    pub tx: u64,
    /// Dropped.
    pub drop: u64,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Name.
    pub name: String,
    /// Where clients connect to.
    pub address: SocketAddr,
    /// SYN-ACKs sent, each with a cookie.
    pub cookies_sent: u64,
    /// Segments that returned a valid cookie.
    pub cookies_valid: u64,
    /// Segments of no connection that returned no valid cookie.
    pub cookies_invalid: u64,
    /// Clients that the kernel made a socket for.
    pub admitted: u64,
    /// Clients that got none because nobody listens.
    pub no_listener: u64,
    /// Clients that got none because the kernel refused.
    pub refused: u64,
    /// Cookies sent that have not come back, about.
    #[serde(default)]
    pub unproven: u64,
    /// How long the oldest of them has been out, seconds.
    #[serde(default)]
    pub unproven_oldest_s: u64,
    /// Half-open connections in the kernel (SYN_RECV): of SYNs that levee did not answer.
    #[serde(default)]
    pub syn_recv: u64,
    /// How long ago the oldest of them was first seen, milliseconds.
    #[serde(default)]
    pub syn_recv_oldest_ms: u64,
    /// Sockets of the server ended because they were in CLOSE_WAIT for too long.
    #[serde(default)]
    pub reaped_close_wait: u64,
}

/// Packets dropped for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// As in the metric's label.
    pub reason: String,
    /// Since the start.
    pub packets: u64,
}

impl Status {
    /// Of this process.
    #[must_use]
    pub fn new(snapshot: &Snapshot) -> Self {
        let drops = snapshot.drops().into_iter();
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_s: snapshot.uptime_s,
            active: snapshot.active(),
            adopted: snapshot.adopted,
            key_epoch: snapshot.key_epoch,
            last_reload_successful: snapshot.reload.successful,
            last_reload_success_unix_s: snapshot.reload.succeeded_unix_s,
            interfaces: snapshot.interfaces.iter().map(Into::into).collect(),
            services: snapshot.services.iter().map(Into::into).collect(),
            drops: drops
                .map(|(verdict, packets)| Drops {
                    reason: verdict.label().into(),
                    packets,
                })
                .collect(),
            proxy: snapshot.proxy.as_ref().map(Into::into),
            splice: snapshot.splice.as_ref().map(Into::into),
        }
    }
}

impl From<&InterfaceSnapshot> for InterfaceStatus {
    fn from(snapshot: &InterfaceSnapshot) -> Self {
        let actions = |packets| Actions {
            pass: by_action(packets, Action::Pass),
            tx: by_action(packets, Action::Reply),
            drop: by_action(packets, Action::Drop),
        };
        let reasons = Verdict::ALL
            .iter()
            .map(|verdict| (verdict.label().into(), snapshot.packets[verdict.slot()]));
        Self {
            name: snapshot.name.clone(),
            index: snapshot.index,
            mode: snapshot.mode.label().into(),
            attached: snapshot.attached,
            packets: actions(&snapshot.packets),
            packets_per_s: actions(&snapshot.rates),
            reasons: reasons.collect(),
        }
    }
}

impl From<&ServiceSnapshot> for ServiceStatus {
    fn from(snapshot: &ServiceSnapshot) -> Self {
        let kernel = snapshot.kernel.as_ref().map(|watched| &watched.stats);
        Self {
            name: snapshot.name.clone(),
            address: snapshot.address,
            cookies_sent: snapshot.cookies_sent(),
            cookies_valid: snapshot.cookies_valid(),
            cookies_invalid: snapshot.cookies_invalid(),
            admitted: snapshot.admissions(Admission::Admitted),
            no_listener: snapshot.admissions(Admission::NoListener),
            refused: snapshot.admissions(Admission::Refused),
            unproven: snapshot.unproven,
            unproven_oldest_s: snapshot.unproven_oldest_s,
            syn_recv: kernel.map_or(0, |stats| stats.syn_recv.get()),
            syn_recv_oldest_ms: kernel.map_or(0, |stats| stats.syn_recv_oldest_ms.get()),
            reaped_close_wait: kernel.map_or(0, |stats| stats.reaped_close_wait.get()),
        }
    }
}
