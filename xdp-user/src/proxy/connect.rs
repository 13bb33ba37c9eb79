//! Sockets towards backends.

use std::{io, net::SocketAddr};

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::leg::Leg;
use crate::engine::reason::ConnectError;

/// A connect that was started.
#[derive(Debug)]
pub(super) enum Started {
    /// The answer is already there.
    Connected(Leg),
    /// The SYN is on its way.
    InProgress(Leg),
}

/// Starts to connect to a backend.
///
/// # Errors
/// Fails when no SYN could be sent.
pub(super) fn start(backend: SocketAddr) -> Result<Started, ConnectError> {
    connect(backend).map_err(|error| reason(&error))
}

fn connect(backend: SocketAddr) -> io::Result<Started> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(backend), kind, Some(Protocol::TCP))?;
    // With Nagle's algorithm a small write would wait for the ACK of the one before.
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&backend.into()) {
        Ok(()) => Ok(Started::Connected(Leg::connected(socket)?)),
        Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => {
            Ok(Started::InProgress(Leg::connecting(socket)?))
        }
        Err(error) => Err(error),
    }
}

fn reason(error: &io::Error) -> ConnectError {
    error
        .raw_os_error()
        .map_or(ConnectError::Other, |errno| failed(Errno::from_raw(errno)))
}

/// Why a connect failed with this error.
pub(super) const fn failed(errno: Errno) -> ConnectError {
    match errno {
        Errno::ECONNREFUSED | Errno::ECONNRESET => ConnectError::Refused,
        Errno::ETIMEDOUT => ConnectError::Timeout,
        Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::ENETDOWN | Errno::EHOSTDOWN => {
            ConnectError::Unreachable
        }
        Errno::EADDRNOTAVAIL | Errno::EADDRINUSE => ConnectError::NoLocalPort,
        Errno::EMFILE | Errno::ENFILE => ConnectError::Fds,
        _ => ConnectError::Other,
    }
}
