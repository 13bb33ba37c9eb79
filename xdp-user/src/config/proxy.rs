//! What is configured for services in `proxy` mode.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use super::field::{quoted, refusal};

/// Services in `proxy` mode that one configuration may have: each has a listener per worker and
/// some sixty metric series.
pub const PROXY_SERVICES_MAX: usize = 256;

/// Backends of one service, counted after names are resolved.
pub const BACKENDS_MAX: usize = 64;

/// Prefixes in one allow-list.
pub const PREFIXES_MAX: usize = 256;

/// The proxy as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyGlobals {
    /// Threads that move data; `None` for one per CPU that levee may use. 1 to 256.
    pub workers: Option<u16>,
    /// Connections at a time. Default 100,000; lowered at start to what file descriptors allow.
    pub connections_max: u32,
    /// Pipes for `splice`, at most in use at a time. Default 512; 0 copies through userspace.
    pub pipes_max: u32,
    /// Bytes that wait in levee because a receiver is slow. Default 64 MiB.
    pub buffer_bytes_max: u64,
    /// How long connections may go on after levee was told to stop. Default 30 s.
    pub drain_timeout: Duration,
    /// DNS server for backends by name; `None` for the system's.
    pub dns_server: Option<SocketAddr>,
}

impl Default for ProxyGlobals {
    fn default() -> Self {
        Self {
            workers: None,
            connections_max: 100_000,
            pipes_max: 512,
            buffer_bytes_max: 64 << 20,
            drain_timeout: Duration::from_secs(30),
            dns_server: None,
        }
    }
}

/// What a service in `proxy` mode has besides its address. One in `splice` mode shares what has to
/// do with backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyService {
    /// Where connections go: 1 to [`BACKENDS_MAX`], no name twice.
    pub backends: Vec<Backend>,
    /// How a backend is chosen.
    pub balance: Balance,
    /// How backends are checked; `None` for passive ejection only.
    pub check: Option<Check>,
    /// When a backend is used and when not.
    pub health: HealthPolicy,
    /// How long a connection may stay in each state.
    pub timeouts: Timeouts,
    /// Further attempts to connect after the first failed, on another backend if there is one.
    /// Default 2.
    pub retries: u8,
    /// Connects in progress at a time. Default 4096.
    pub half_open_max: u32,
    /// Bounds per client and in all.
    pub limits: Limits,
    /// Version of the PROXY header that backends get; `None` for none.
    pub send_proxy: Option<ProxyVersion>,
    /// Upstreams that must send a PROXY header; nobody else's is believed.
    pub accept_proxy: Vec<Prefix>,
    /// Whether clients outside `accept_proxy`, if that has any, are refused. Default true.
    pub accept_proxy_required: bool,
    /// Connect to backends from the client's own address (`IP_TRANSPARENT`).
    pub transparent: bool,
    /// Local addresses to connect to backends from; empty for the kernel's choice.
    pub source: Vec<IpAddr>,
    /// Whether this is a part of a service in `splice` mode: its backends are of its family, and what
    /// their TCP does has to be known.
    pub spliced: bool,
    /// Keepalive probes towards clients and towards backends, by `Side::index`.
    pub keepalive: [Option<Keepalive>; 2],
}

/// A backend as configured; a name may stand for several addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The metric label; the target unless configured.
    pub name: String,
    /// Where it is.
    pub target: Target,
    /// Its share, 0 to 256; 0 takes no new connections. Default 1.
    pub weight: u16,
    /// Connections at a time; 0 for no bound.
    pub connections_max: u32,
}

/// Where a backend is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A fixed address.
    Address(SocketAddr),
    /// A name that is resolved, and resolved again when its TTL has run out.
    Name {
        /// The host's name.
        host: String,
        /// The port, which DNS does not tell.
        port: u16,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// How a backend is chosen for a new connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// In turns, by weight.
    #[default]
    RoundRobin,
    /// The one with the fewest connections, by weight.
    LeastConnections,
    /// By a hash of the client's address (Maglev): a client stays with its backend, and when
    /// backends come and go few clients move.
    ClientHash,
}

/// An active health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// A TCP connection.
    Tcp,
    /// A response with an expected status to `GET path`.
    Http {
        /// The path, with the leading slash.
        path: String,
        /// The Host header; `None` for the backend's target.
        host: Option<String>,
        /// Expected statuses.
        status: Vec<RangeInclusive<u16>>,
    },
    /// A complete TLS handshake.
    Tls {
        /// Server name to ask for (SNI) and to verify; `None` for the backend's target.
        name: Option<String>,
        /// Which certificates are accepted; `None` for any.
        ca_file: Option<PathBuf>,
    },
}

/// When a backend is used and when not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthPolicy {
    /// Between two checks. Default 2 s.
    pub interval: Duration,
    /// How long a check may take. Default 1 s.
    pub timeout: Duration,
    /// Successful checks in a row that bring a backend up. Default 2.
    pub rise: u8,
    /// Failed checks in a row that take it down. Default 3.
    pub fall: u8,
    /// Failed connects in a row that eject a backend; 0 for never. Default 5.
    pub eject_failures: u16,
    /// How long it is ejected the first time. Default 30 s.
    pub eject_duration: Duration,
    /// How long a backend that came up gets less than its share; zero for not at all.
    pub slow_start: Duration,
}

impl Default for HealthPolicy {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
            eject_failures: 5,
            eject_duration: Duration::from_secs(30),
            slow_start: Duration::ZERO,
        }
    }
}

/// How long a connection may stay in a state, milliseconds; 0 for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the PROXY header of an upstream. Default 5 s.
    pub header_ms: u32,
    /// For one attempt to connect to a backend. Default 3 s.
    pub connect_ms: u32,
    /// Without a byte from either side since the connection was made. Default 0.
    pub first_byte_ms: u32,
    /// Without a byte in either direction. Default 1 h.
    pub idle_ms: u32,
    /// Without a byte from the backend after the client has closed. Default 60 s.
    pub close_wait_ms: u32,
    /// Without a byte from the client after the backend has closed. Default 60 s.
    pub fin_wait_ms: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            header_ms: 5_000,
            connect_ms: 3_000,
            first_byte_ms: 0,
            idle_ms: 3_600_000,
            close_wait_ms: 60_000,
            fin_wait_ms: 60_000,
        }
    }
}

/// Bounds on connections; 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections of the service at a time.
    pub service: u32,
    /// Connections of one client address at a time.
    pub per_client: u32,
    /// Connections of one /24 (IPv4) or /64 (IPv6) at a time.
    pub per_prefix: u32,
    /// New connections of one client, per minute.
    pub rate_per_minute: u32,
    /// How many of them may come at once. At least 1 where there is a rate.
    pub rate_burst: u32,
}

impl Limits {
    /// Whether anything is counted by client.
    #[must_use]
    pub const fn any_per_client(&self) -> bool {
        self.per_client != 0 || self.per_prefix != 0 || self.rate_per_minute != 0
    }
}

/// Version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// The line of text.
    V1,
    /// The binary header.
    V2,
}

/// Keepalive probes (RFC 9293 3.8.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Between two probes.
    pub interval: Duration,
    /// Probes without an answer that end the connection.
    pub count: u32,
}

impl Keepalive {
    /// RFC 9293's and Linux's defaults: 2 h, 75 s, 10 probes.
    pub const CLASSIC: Self = Self {
        idle: Duration::from_secs(7200),
        interval: Duration::from_secs(75),
        count: 10,
    };

    /// Finds a dead peer within 45 s.
    pub const HEARTBEAT: Self = Self {
        idle: Duration::from_secs(30),
        interval: Duration::from_secs(5),
        count: 3,
    };
}

/// A range of addresses. IPv4 is kept as IPv4-mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    bits: u128,
    len: u8,
}

impl Prefix {
    /// The first `len` bits of `address` (of its 32 or 128); `None` when there are not as many.
    #[must_use]
    pub fn new(address: IpAddr, len: u8) -> Option<Self> {
        let (bits, len) = match address {
            IpAddr::V4(v4) if len <= 32 => (v4.to_ipv6_mapped().to_bits(), len + 96),
            IpAddr::V6(v6) if len <= 128 => (v6.to_bits(), len),
            _ => return None,
        };
        Some(Self {
            bits: bits & mask(len),
            len,
        })
    }

    /// Whether `address` is in it. An IPv4-mapped address counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        bits & mask(self.len) == self.bits
    }
}

impl FromStr for Prefix {
    type Err = String;

    /// An address with a length, such as `10.0.0.0/8`, or an address alone.
    fn from_str(text: &str) -> Result<Self, String> {
        let (address, len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(len)),
            None => (text, None),
        };
        let prefix = || {
            let address: IpAddr = address.parse().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            let len = match len {
                Some(len) if len.bytes().all(|byte| byte.is_ascii_digit()) => len.parse().ok()?,
                Some(_) => return None,
                None => most,
            };
            Self::new(address, len)
        };
        prefix().ok_or_else(|| {
            refusal(
                quoted(text),
                "addresses, such as \"192.0.2.7\", \"10.0.0.0/8\" or \"2001:db8::/32\"",
            )
        })
    }
}

/// The `len` highest bits.
const fn mask(len: u8) -> u128 {
    match len {
        0 => 0,
        len => u128::MAX << (128 - len as u32),
    }
}
