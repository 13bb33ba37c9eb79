//! The configuration: a file or the command line, made into a [`Config`] that is known to be
//! sound. Pure: what has to be asked of the machine (does the interface exist, is the port free)
//! is asked at start, not here.

use std::{net::SocketAddr, path::Path, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Result;

mod error;
mod field;
mod file;
mod flags;
mod proxy;
mod raw;
mod splice;
mod target;
mod units;
mod validate;

pub use error::{ConfigError, Problem};
pub use flags::Flags;
pub use proxy::{
    BACKENDS_MAX, Backend, Balance, Check, HealthPolicy, Keepalive, Limits, PREFIXES_MAX,
    PROXY_SERVICES_MAX, Prefix, ProxyGlobals, ProxyService, ProxyVersion, Target, Timeouts,
};
pub use splice::{FLOWS_MAX, NAT_POOL_MAX, Nat, SPLICE_SERVICES_MAX, SpliceGlobals, SpliceService};
pub(crate) use target::unusable;
pub use units::parse_duration_ms;

/// Services that one configuration may protect; the data path's table has room for as many.
pub const SERVICES_MAX: usize = xdp_common::abi::SERVICES_MAX as usize;

/// Interfaces that one configuration may name; the data path tells as many apart.
pub const INTERFACES_MAX: usize = xdp_common::abi::IFACES_MAX as usize;

/// Length of a service's name, bytes: it is a metric label.
pub const SERVICE_NAME_LEN_MAX: usize = 64;

/// Where the master secret is kept unless configured.
pub const SECRET_FILE: &str = "/var/lib/levee/secret";

/// Where `levee status` finds a running levee unless configured.
pub const CONTROL_SOCKET: &str = "/run/levee/levee.sock";

/// Where metrics are served unless configured. Loopback only: they name the services.
pub const METRICS_LISTEN: &str = "127.0.0.1:9977";

/// Everything levee is told by its operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// File with the master secret. Default [`SECRET_FILE`].
    pub secret_file: PathBuf,
    /// Unix socket for `levee status` and `levee reload`. Default [`CONTROL_SOCKET`].
    pub control_socket: PathBuf,
    /// Directory on a BPF file system where the data path is pinned, so that it outlives levee's
    /// process; `None` for off. Default: [one of the control socket's
    /// own](crate::pins::default_directory).
    pub pin_dir: Option<PathBuf>,
    /// Whether a SYN with a wrong TCP checksum is dropped instead of answered. Default true: a
    /// NIC that verifies checksums does so for the kernel, not for XDP.
    pub verify_syn_checksum: bool,
    /// Where the metrics server listens; `None` for off. Default [`METRICS_LISTEN`].
    pub metrics_listen: Option<SocketAddr>,
    /// Interfaces to attach to: 1 to [`INTERFACES_MAX`], no name twice.
    pub interfaces: Vec<Interface>,
    /// The proxy as a whole.
    pub proxy: ProxyGlobals,
    /// What services in `splice` mode share.
    pub splice: SpliceGlobals,
    /// Services to protect: 1 to [`SERVICES_MAX`], no name and no address twice.
    pub services: Vec<Service>,
}

/// An interface that levee attaches to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Name, as `ip link` shows it: 1 to 15 bytes.
    pub name: String,
    /// How the XDP program is attached.
    pub attach: Attach,
}

/// How the XDP program is attached to an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attach {
    /// In the driver, or in the kernel's stack with a warning where the driver cannot.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the kernel's stack: works everywhere, several times slower.
    Generic,
}

/// A protected service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The metric label; the address unless configured.
    pub name: String,
    /// Address and port that clients connect to. Unicast, not loopback, port not 0.
    pub address: SocketAddr,
    /// MSS of the SYN-ACK instead of the one the interfaces' MTU leaves, bytes.
    pub mss: Option<u16>,
    /// Window scale of the SYN-ACK instead of the kernel's choice, 0 to 14 (RFC 7323 2.3).
    pub window_scale: Option<u8>,
    /// Window of the SYN-ACK instead of the kernel's choice, bytes. `None` in `splice` mode.
    pub window: Option<u16>,
    /// How clients that proved themselves are served.
    pub mode: Mode,
}

/// How a service's clients are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By a server on this machine.
    Host(HostOptions),
    /// By levee's proxy, which connects to a backend.
    Proxy(Arc<ProxyService>),
    /// By servers elsewhere, to which the data path forwards packets.
    Splice(Arc<SpliceService>),
}

/// What a service in `host` mode may have besides its address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostOptions {
    /// How long the server's sockets may be in CLOSE_WAIT before levee ends them; `None` for ever.
    pub reap_close_wait: Option<Duration>,
}

impl Service {
    /// What is configured for `proxy` mode; `None` in another.
    #[must_use]
    pub const fn proxy(&self) -> Option<&Arc<ProxyService>> {
        match &self.mode {
            Mode::Proxy(proxy) => Some(proxy),
            Mode::Host(_) | Mode::Splice(_) => None,
        }
    }

    /// What is configured for `splice` mode; `None` in another.
    #[must_use]
    pub const fn splice(&self) -> Option<&Arc<SpliceService>> {
        match &self.mode {
            Mode::Splice(splice) => Some(splice),
            Mode::Host(_) | Mode::Proxy(_) => None,
        }
    }

    /// What a service with backends has, in either mode; `None` in `host` mode.
    #[must_use]
    pub fn pooled(&self) -> Option<&Arc<ProxyService>> {
        match &self.mode {
            Mode::Proxy(proxy) => Some(proxy),
            Mode::Splice(splice) => Some(&splice.common),
            Mode::Host(_) => None,
        }
    }
}

impl Config {
    /// Reads and validates a configuration file.
    ///
    /// # Errors
    /// Fails when the file cannot be read, is not a regular one or far too long; otherwise with a
    /// [`ConfigError`] that lists every problem with its line, its key, what was found and what is
    /// allowed.
    pub fn read(path: &Path) -> Result<Self> {
        let text = file::read(path)?;
        Ok(Self::parse(&path.display().to_string(), &text)?)
    }

    /// Validates the text of a configuration file; `file` is its name in errors.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        validate::config(file, text)
    }
}

impl Attach {
    /// The word for it in the configuration.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

#[cfg(test)]
mod tests;
