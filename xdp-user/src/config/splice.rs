//! What is configured for services in `splice` mode.

use std::{net::IpAddr, sync::Arc};

use xdp_common::splice::index;

use super::{ProxyService, Timeouts};

/// Services in `splice` mode that one configuration may have: each has some sixty metric series.
pub const SPLICE_SERVICES_MAX: usize = 256;

/// Addresses that one service may use towards its backends.
pub const NAT_POOL_MAX: usize = 64;

/// Connections that a table may hold at most; number 0 stands for none.
pub const FLOWS_MAX: u32 = index::FLOWS_MAX - 1;

/// What all services in `splice` mode share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpliceGlobals {
    /// Connections at a time, those included that ended a moment ago: 64 to [`FLOWS_MAX`]. Each
    /// takes 160 bytes of the kernel's memory, from the start. Default 1,048,576.
    pub flows_max: u32,
}

impl Default for SpliceGlobals {
    fn default() -> Self {
        Self { flows_max: 1 << 20 }
    }
}

/// What a service in `splice` mode has besides its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpliceService {
    /// What it has in common with a service in `proxy` mode. What only a proxy can do is off.
    pub common: Arc<ProxyService>,
    /// Where packets to its backends seem to come from.
    pub nat: Nat,
    /// Without a packet after both sides have closed, but not acknowledged it all, milliseconds.
    /// Default 60 s.
    pub last_ack_ms: u32,
    /// After both sides have closed and acknowledged it, milliseconds. Default 60 s, as Linux.
    pub time_wait_ms: u32,
}

/// The source of packets to backends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Nat {
    /// The client: backends see it, and answer through levee's machine.
    #[default]
    Dnat,
    /// One of these addresses of levee's machine, of the service's family, with a port of its own:
    /// 1 to [`NAT_POOL_MAX`].
    Full(Vec<IpAddr>),
}

/// Last acknowledgements and TIME_WAIT by default, milliseconds.
pub(super) const CLOSED_MS: u32 = 60_000;

/// Defaults of [`Timeouts`] for connections that levee sees packets of and not sockets: silence is
/// judged as by a NAT, at least 2 h 4 min when established and 4 min when half-closed (RFC 5382
/// REQ-5).
pub(super) const TIMEOUTS: Timeouts = Timeouts {
    header_ms: 0,
    connect_ms: 3_000,
    first_byte_ms: 0,
    idle_ms: 7_440_000,
    close_wait_ms: 240_000,
    fin_wait_ms: 240_000,
};
