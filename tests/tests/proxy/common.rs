//! What the proxy's tests share: a lab with levee in it, and pairs of connected sockets.

use std::{
    fmt::Write as _,
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
};

use levee_tests::{
    levee::{Levee, ProxySetup},
    netns::Netns,
    proxy_lab::{BACKEND, INTERFACE, PROXY, ProxyLab, with_port},
    sockets::{LIMIT, Server, accept, connect, eventually, listen},
};
use socket2::{Domain, Socket, Type};

/// The service's port.
pub(crate) const PORT: u16 = 7000;
/// The backend's port.
pub(crate) const BACKEND_PORT: u16 = 7001;

/// A lab with a levee at work.
pub(crate) struct Stage {
    pub(crate) levee: Levee,
    pub(crate) lab: ProxyLab,
}

impl Stage {
    /// Starts levee with these tables in its configuration.
    pub(crate) fn new(configuration: &str) -> Self {
        Self::with(&ProxySetup {
            interfaces: &[INTERFACE],
            configuration,
            ..ProxySetup::default()
        })
    }

    /// As [`new`](Self::new), with more to choose.
    pub(crate) fn with(setup: &ProxySetup<'_>) -> Self {
        let lab = ProxyLab::new().unwrap();
        let levee = Levee::configured(&lab.proxy, setup).unwrap();
        Self { levee, lab }
    }

    /// One service over IPv4 with one backend, [`address`] and [`backend`].
    pub(crate) fn simple(settings: &str) -> Self {
        Self::new(&service(address(), settings, &[backend()]))
    }

    /// Listens where the backend of [`simple`](Self::simple) is.
    pub(crate) fn listen(&self) -> TcpListener {
        listen(&self.lab.backend, backend())
    }

    /// Connects a client through levee to a listening backend: both ends.
    pub(crate) fn pair(&self, listener: &TcpListener) -> (TcpStream, TcpStream) {
        let client = connect(&self.lab.client, address());
        (client, accept(listener))
    }

    /// A counter or gauge of levee's, summed over series with these labels.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.levee.metrics().unwrap().sum(name, labels) as u64
    }

    /// Connections that ended for this reason.
    pub(crate) fn closed(&self, reason: &str) -> u64 {
        self.metric("levee_connections_closed_total", &[("reason", reason)])
    }

    /// Clients that were refused for this reason.
    pub(crate) fn refused(&self, reason: &str) -> u64 {
        self.metric("levee_connections_refused_total", &[("reason", reason)])
    }

    /// Waits until every connection has ended, and expects that nothing of it is left.
    pub(crate) fn assert_nothing_left(&self) {
        eventually("every gauge of connections at 0", || {
            self.metric("levee_connections", &[]) == 0
        });
        let gauges = [
            ("levee_backend_connections", vec![]),
            ("levee_half_open_connections", vec![("leg", "backend")]),
            ("levee_proxy_buffered_bytes", vec![]),
            ("levee_proxy_pipes", vec![("state", "in_use")]),
        ];
        for (gauge, labels) in gauges {
            assert_eq!(self.metric(gauge, &labels), 0, "{gauge}");
        }
    }
}

/// Where clients connect to.
pub(crate) fn address() -> SocketAddr {
    with_port(PROXY, PORT)[0]
}

/// Where the backend listens.
pub(crate) fn backend() -> SocketAddr {
    with_port(BACKEND, BACKEND_PORT)[0]
}

/// So many addresses of backends.
pub(crate) fn backends(count: u16) -> Vec<SocketAddr> {
    let ports = (0..count).map(|number| BACKEND_PORT + number);
    ports.map(|port| with_port(BACKEND, port)[0]).collect()
}

/// A service in `proxy` mode; tables among the settings come last.
pub(crate) fn service(address: SocketAddr, settings: &str, backends: &[SocketAddr]) -> String {
    let mut text = format!("[[service]]\naddress = \"{address}\"\nmode = \"proxy\"\n{settings}\n");
    for backend in backends {
        writeln!(text, "[[service.backend]]\naddress = \"{backend}\"").unwrap();
    }
    text
}

/// A server that says its number, then echoes.
pub(crate) fn numbered(netns: &Netns, address: SocketAddr, number: u8) -> Server {
    Server::start(netns, address, move |mut stream| {
        stream.write_all(&[number])?;
        io::copy(&mut stream.try_clone()?, &mut stream)?;
        Ok(())
    })
}

/// The number of the server that a client is connected to.
pub(crate) fn number(mut client: &TcpStream) -> u8 {
    let mut number = [0];
    client.read_exact(&mut number).unwrap();
    number[0]
}

/// Connects from one of the client's addresses.
#[track_caller]
pub(crate) fn connect_from(netns: &Netns, source: IpAddr, target: SocketAddr) -> TcpStream {
    try_connect_from(netns, source, target).unwrap()
}

fn try_connect_from(netns: &Netns, source: IpAddr, target: SocketAddr) -> io::Result<TcpStream> {
    let connect = || {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
        socket.connect_timeout(&target.into(), LIMIT)?;
        socket.set_read_timeout(Some(LIMIT))?;
        Ok(socket.into())
    };
    netns.run(|| Ok(connect())).unwrap()
}

/// Connects and expects a RST, which may come before the connect has returned.
#[track_caller]
pub(crate) fn assert_turned_away(netns: &Netns, source: IpAddr, target: SocketAddr) {
    match try_connect_from(netns, source, target) {
        Ok(client) => assert_reset(&client),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
    }
}

/// Expects that nothing but a RST comes.
#[track_caller]
pub(crate) fn assert_reset(mut stream: &TcpStream) {
    let got = stream.read(&mut [0; 64]);
    let is_reset = matches!(&got, Err(error) if error.kind() == io::ErrorKind::ConnectionReset);
    assert!(is_reset, "expected RST, got {got:?}");
}
