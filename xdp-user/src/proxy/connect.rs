//! Sockets towards backends.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt::IpBindAddressNoPort},
};
use socket2::{Domain, Protocol, Socket, Type};

use super::{keepalive, leg::Leg};
use crate::{
    config::ProxyService,
    engine::{reason::ConnectError, tcp::Side},
};

/// A connect that was started.
#[derive(Debug)]
pub(super) enum Started {
    /// The answer is already there.
    Connected(Leg),
    /// The SYN is on its way.
    InProgress(Leg),
}

/// Starts to connect to a backend for `client`. `turn` chooses among the service's own addresses.
///
/// # Errors
/// Fails when no SYN could be sent.
pub(super) fn start(
    backend: SocketAddr,
    config: &ProxyService,
    client: SocketAddr,
    turn: usize,
) -> Result<Started, ConnectError> {
    let origins = origins(backend, config, client, turn);
    if origins.is_empty() {
        return connect(backend, config, Origin::Any);
    }
    let mut result = Err(ConnectError::NoLocalPort);
    for from in origins {
        result = connect(backend, config, from);
        if !matches!(result, Err(ConnectError::NoLocalPort)) {
            break;
        }
    }
    result
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// Whatever the kernel chooses.
    Any,
    /// An address of this machine.
    Own(IpAddr),
    /// An address of another machine: the client. Port 0 for any.
    Client(SocketAddr),
}

/// What to try, one after another while there is no port; nothing when the kernel is to choose.
fn origins(
    backend: SocketAddr,
    config: &ProxyService,
    client: SocketAddr,
    turn: usize,
) -> Vec<Origin> {
    if config.transparent {
        let any_port = SocketAddr::new(client.ip(), 0);
        // The client's own port may be in use for this backend still, in TIME_WAIT.
        return vec![Origin::Client(client), Origin::Client(any_port)];
    }
    let fits = |address: &&IpAddr| address.is_ipv4() == backend.is_ipv4();
    let own: Vec<_> = config.source.iter().filter(fits).copied().collect();
    let first = turn.checked_rem(own.len()).unwrap_or(0);
    let turns = own.iter().cycle().skip(first).take(own.len());
    turns.copied().map(Origin::Own).collect()
}

fn connect(
    backend: SocketAddr,
    config: &ProxyService,
    from: Origin,
) -> Result<Started, ConnectError> {
    open(backend, config, from).map_err(|error| {
        let errno = error.raw_os_error().map(Errno::from_raw);
        errno.map_or(ConnectError::Other, failed)
    })
}

fn open(backend: SocketAddr, config: &ProxyService, from: Origin) -> io::Result<Started> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(backend), kind, Some(Protocol::TCP))?;
    // With Nagle's algorithm a small write would wait for the ACK of the one before.
    socket.set_tcp_nodelay(true)?;
    if let Some(probes) = config.keepalive[Side::Backend.index()] {
        keepalive::set(&socket, Some(probes))?;
    }
    // The ACK of the SYN-ACK waits for the client's first bytes, which mostly are there by then: one
    // packet less. `Leg::acknowledge` sends it where they are not.
    socket.set_tcp_quickack(false)?;
    bind(&socket, from)?;
    let in_progress = match socket.connect(&backend.into()) {
        Ok(()) => false,
        Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => true,
        Err(error) => return Err(error),
    };
    if socket.local_addr()?.as_socket() == Some(backend) {
        // Where nobody listens, the kernel may choose the backend's port for this end, and connect
        // the socket with itself (simultaneous open, RFC 9293 3.5). A RST leaves no TIME_WAIT, in
        // which a server could not have the port.
        socket.set_linger(Some(Duration::ZERO))?;
        return Err(Errno::ECONNREFUSED.into());
    }
    Ok(if in_progress {
        Started::InProgress(Leg::connecting(socket)?)
    } else {
        Started::Connected(Leg::connected(socket)?)
    })
}

fn bind(socket: &Socket, from: Origin) -> io::Result<()> {
    let address = match from {
        Origin::Any => return Ok(()),
        Origin::Own(ip) => SocketAddr::new(ip, 0),
        Origin::Client(address) => {
            if address.is_ipv4() {
                socket.set_ip_transparent_v4(true)?;
            } else {
                socket.set_ip_transparent_v6(true)?;
            }
            // The port belongs to a connection of the client's with this machine.
            socket.set_reuse_address(true)?;
            address
        }
    };
    if address.port() == 0 {
        // The port is chosen at the connect, when it is known who the other end is: otherwise a
        // port would serve one connection only, and not one to each backend.
        setsockopt(socket, IpBindAddressNoPort, &true)?;
    }
    socket.bind(&address.into())
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

#[cfg(test)]
mod tests {
    use std::{fs, net::TcpListener};

    use super::*;
    use crate::{backends::fixture::service, netlink::namespace::in_namespace};

    #[test]
    fn a_connection_with_itself_is_refused() {
        in_namespace(|| {
            // Written by a thread of this namespace, it is this namespace's.
            fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40000").unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let _context = runtime.enter();
            let service = service("", &["127.0.0.1:40000"]);
            let config = service.proxy().unwrap();
            let backend = SocketAddr::from(([127, 0, 0, 1], 40_000));
            let client = SocketAddr::from(([192, 0, 2, 1], 1234));
            for _ in 0..2 {
                let result = start(backend, config, client, 0);
                assert_eq!(result.unwrap_err(), ConnectError::Refused);
            }
            let server = TcpListener::bind(backend).unwrap();
            fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40001 40001").unwrap();
            start(backend, config, client, 0).unwrap();
            drop(server);
        });
    }
}
