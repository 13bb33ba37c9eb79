//! One health check of one backend: which kinds there are, and how each may end.

use std::{
    fmt, io,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use proxy_header::ProxyHeader;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};

use super::{http, tls};
use crate::{
    config::{Check, ProxyService, ProxyVersion, Target},
    learned::Agreed,
    netlink::sockets::Sockets,
};

/// Why a check did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckError {
    /// RST in answer to the SYN.
    Refused,
    /// Not finished within the check's timeout.
    Timeout,
    /// No route, or ICMP said so.
    Unreachable,
    /// The backend closed or reset the connection before the check was finished.
    Closed,
    /// Another status than those expected.
    Status(u16),
    /// What came was no HTTP response.
    Http(String),
    /// No TLS handshake.
    Tls(String),
    /// This machine could not make the check: nothing is known about the backend.
    NotDone(String),
}

impl CheckError {
    /// Whether it tells something about the backend, and not only about this machine.
    #[must_use]
    pub const fn blames_backend(&self) -> bool {
        !matches!(self, Self::NotDone(_))
    }
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::Timeout => f.write_str("timed out"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::Closed => f.write_str("closed the connection"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Http(error) => write!(f, "no HTTP response: {error}"),
            Self::Tls(error) => write!(f, "no TLS handshake: {error}"),
            Self::NotDone(error) => write!(f, "not checked: {error}"),
        }
    }
}

impl From<io::Error> for CheckError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ECONNREFUSED) => Self::Refused,
            Some(Errno::ETIMEDOUT) => Self::Timeout,
            Some(Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::EHOSTDOWN) => Self::Unreachable,
            Some(Errno::ECONNRESET | Errno::EPIPE | Errno::ECONNABORTED) => Self::Closed,
            // Everything else is ours: no descriptors, ports or memory left, forbidden by a local
            // firewall, an address family that is switched off.
            Some(_) => Self::NotDone(error.to_string()),
            None if error.kind() == io::ErrorKind::UnexpectedEof => Self::Closed,
            None => Self::NotDone(error.to_string()),
        }
    }
}

/// What is done to check the backends of one service.
#[derive(Debug)]
pub struct Checker {
    kind: Kind,
    header: Option<ProxyVersion>,
    timeout: Duration,
    /// Whether anybody wants to know what the backend's TCP does.
    learns: bool,
}

/// What a check has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// How long it took.
    pub took: Duration,
    /// What the backend's TCP agreed to; `None` if it is not known.
    pub agreed: Option<Agreed>,
}

#[derive(Debug)]
enum Kind {
    Tcp,
    Http(http::Expectation),
    Tls(tls::Handshake),
}

impl Checker {
    /// The service's check; `None` when it has none.
    ///
    /// # Errors
    /// Fails when the file with the certificate authorities cannot be read, or the configured path,
    /// host or name cannot be asked for.
    pub fn new(service: &ProxyService) -> Result<Option<Self>> {
        let kind = match &service.check {
            // Who connects learns what clients may be offered.
            None if service.spliced => Kind::Tcp,
            None => return Ok(None),
            Some(Check::Tcp) => Kind::Tcp,
            Some(Check::Http { path, host, status }) => {
                Kind::Http(http::Expectation::new(path, host.as_deref(), status)?)
            }
            Some(Check::Tls { name, ca_file }) => Kind::Tls(
                tls::Handshake::new(name.as_deref(), ca_file.as_deref().map(Path::new))
                    .context("cannot check by TLS")?,
            ),
        };
        Ok(Some(Self {
            kind,
            header: service.send_proxy,
            timeout: service.health.timeout,
            learns: service.spliced,
        }))
    }

    /// Checks the backend at `address`, which is configured as `target`. What was found.
    ///
    /// The connection ends with a RST in every case: TIME_WAIT would take a local port away from
    /// the clients' connections.
    ///
    /// # Errors
    /// Says why the backend is not fit, or that it could not be checked.
    pub async fn check(&self, address: SocketAddr, target: &Target) -> Result<Checked, CheckError> {
        let start = Instant::now();
        let agreed = timeout(self.timeout, self.attempt(address, target))
            .await
            .unwrap_or(Err(CheckError::Timeout))?;
        Ok(Checked {
            took: start.elapsed(),
            agreed,
        })
    }

    async fn attempt(
        &self,
        address: SocketAddr,
        target: &Target,
    ) -> Result<Option<Agreed>, CheckError> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_zero_linger()?;
        if stream.local_addr()? == address {
            // Where nobody listens, the kernel may choose the backend's port for this end, and
            // connect the socket with itself (simultaneous open, RFC 9293 3.5).
            return Err(CheckError::Refused);
        }
        let agreed = self.learns.then(|| agreed(&stream)).flatten();
        if let Some(version) = self.header {
            stream.write_all(&own_header(version)?).await?;
        }
        match &self.kind {
            Kind::Tcp => {}
            Kind::Http(expectation) => expectation.check(stream, target).await?,
            Kind::Tls(handshake) => handshake.check(stream, address, target).await?,
        }
        Ok(agreed)
    }
}

/// What the backend's TCP agreed to on a connection. That the kernel does not tell is no fault of
/// the backend's.
fn agreed(stream: &TcpStream) -> Option<Agreed> {
    let ask = || {
        let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
        Sockets::open()?.agreed(local, peer)
    };
    ask().unwrap_or_else(|error| {
        log::debug!("cannot learn what a backend's TCP agrees to: {error:#}");
        None
    })
}

/// The PROXY header of a connection without a client: `PROXY UNKNOWN` (version 1), LOCAL (version
/// 2). Section 2 of the PROXY protocol has it for health checks.
fn own_header(version: ProxyVersion) -> Result<Vec<u8>, CheckError> {
    let (header, mut bytes) = (ProxyHeader::with_local(), Vec::new());
    match version {
        ProxyVersion::V1 => header.encode_v1(&mut bytes),
        ProxyVersion::V2 => header.encode_v2(&mut bytes),
    }
    .map_err(|error| CheckError::NotDone(format!("no PROXY header: {error}")))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
