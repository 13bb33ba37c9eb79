//! What the tests of `splice` mode share: a lab with levee in it.

use std::{
    fmt::Write as _,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use levee_tests::{
    http::get_in,
    levee::{Levee, METRICS, ProxySetup},
    netns::Netns,
    sockets::{LIMIT, Server, accept, connect, eventually, listen, try_connect},
    splice_lab::{BACKEND, SERVICE, SpliceLab, SpliceOptions, with_port},
};

/// The service's port.
pub(crate) const PORT: u16 = 7000;
/// The backend's port.
pub(crate) const BACKEND_PORT: u16 = 7001;

/// A lab with a levee at work.
pub(crate) struct Stage {
    pub(crate) levee: Levee,
    pub(crate) lab: SpliceLab,
    /// Where servers listen, IPv4 and IPv6. They did before levee started, which checks them then,
    /// and never again within a test.
    listeners: Vec<TcpListener>,
}

impl Stage {
    /// Two arms, the client's address kept, IPv4 and IPv6; each with [`BACKEND`] behind it.
    pub(crate) fn plain() -> Self {
        Self::new("")
    }

    /// As [`plain`](Self::plain), with settings for both services.
    pub(crate) fn new(settings: &str) -> Self {
        Self::with(SpliceOptions::default(), &services(settings))
    }

    /// A lab of one's own choice, and levee with these tables in its configuration.
    pub(crate) fn with(options: SpliceOptions, configuration: &str) -> Self {
        Self::in_lab(SpliceLab::new(options).unwrap(), &backends(), configuration)
    }

    /// As [`with`](Self::with), in a lab that was prepared, and with servers that listen elsewhere.
    pub(crate) fn in_lab(lab: SpliceLab, servers: &[SocketAddr], configuration: &str) -> Self {
        let listeners = servers
            .iter()
            .map(|address| listen(&lab.backend, *address))
            .collect();
        let setup = ProxySetup {
            interfaces: lab.interfaces(),
            configuration,
            ..ProxySetup::default()
        };
        let levee = Levee::configured(&lab.levee, &setup).unwrap();
        let stage = Self {
            levee,
            lab,
            listeners,
        };
        // What they agree to is what clients are offered from now on.
        eventually("all backends have been checked", || {
            stage.metric("levee_backend_checks_total", &[("result", "ok")]) >= servers.len() as u64
        });
        stage
    }

    /// Serves all who connect to the backend from now on.
    pub(crate) fn serve(
        &self,
        handler: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static,
    ) -> Vec<Server> {
        let listeners = self.listeners.iter();
        listeners
            .map(|listener| Server::on(listener.try_clone().unwrap(), handler.clone()))
            .collect()
    }

    /// Listens no more at the first of the servers' addresses, for somebody else to do so.
    pub(crate) fn leave_listening(&mut self) {
        self.listeners.drain(..backends().len());
        for address in backends() {
            // A child that another test has just forked may hold them for a moment.
            eventually("nobody listens", || {
                try_connect(&self.lab.backend, address).is_err()
            });
        }
    }

    /// Connects a client over IPv4 or IPv6 (0 or 1): both ends.
    pub(crate) fn pair(&self, family: usize) -> (TcpStream, TcpStream) {
        let client = self.connect(addresses()[family]);
        let source = client.local_addr().unwrap();
        loop {
            let server = accept(&self.listeners[family]);
            // levee's check may be waiting to be accepted too.
            if server.peer_addr().is_ok_and(|peer| peer == source) {
                return (client, server);
            }
        }
    }

    /// Connects a client to a service.
    pub(crate) fn connect(&self, address: SocketAddr) -> TcpStream {
        connect(&self.lab.client, address)
    }

    /// A counter or gauge of levee's, summed over series with these labels.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.levee.metrics().unwrap().sum(name, labels) as u64
    }

    /// Packets dropped for this reason.
    pub(crate) fn dropped(&self, reason: &str) -> u64 {
        self.metric("levee_drop_packets_total", &[("reason", reason)])
    }

    /// Connections that are not over, as of levee's last look at all of them.
    pub(crate) fn connections(&self) -> u64 {
        let metrics = self.levee.metrics().unwrap();
        let count = |state| metrics.sum("levee_flows", &[("state", state)]) as u64;
        let over = count("TIME_WAIT") + count("CLOSED");
        metrics.sum("levee_flows", &[]) as u64 - over
    }

    /// Waits until no connection is left but those that are over.
    pub(crate) fn assert_nothing_left(&self) {
        eventually("every connection ends", || self.connections() == 0);
    }
}

impl Drop for Stage {
    /// What a failed test leaves to look at.
    fn drop(&mut self) {
        if thread::panicking() {
            println!("levee's log: {}", self.levee.log().unwrap_or_default());
            if let Ok((_, page)) = get_in(&self.lab.levee, METRICS, "/metrics", LIMIT) {
                let counted = page.lines().filter(|line| !line.starts_with('#'));
                for line in counted.filter(|line| !line.ends_with(" 0")) {
                    println!("{line}");
                }
            }
        }
    }
}

/// Where clients connect to, IPv4 and IPv6.
pub(crate) fn addresses() -> [SocketAddr; 2] {
    with_port(SERVICE, PORT)
}

/// Where the servers are, IPv4 and IPv6.
pub(crate) fn backends() -> [SocketAddr; 2] {
    with_port(BACKEND, BACKEND_PORT)
}

/// Both services, with these settings; tables among them come last.
pub(crate) fn services(settings: &str) -> String {
    let pairs = addresses().into_iter().zip(backends());
    pairs
        .map(|(address, backend)| service(address, settings, &[backend]))
        .collect()
}

/// Backends are checked once, at the start, with time for a lost SYN or two.
const CHECK: &str = "[service.check]\ntype = \"tcp\"\ninterval = \"1h\"\ntimeout = \"30s\"";

/// A service in `splice` mode; tables among the settings come last.
pub(crate) fn service(address: SocketAddr, settings: &str, backends: &[SocketAddr]) -> String {
    let check = if settings.contains("[service.check]") {
        ""
    } else {
        CHECK
    };
    let mut text =
        format!("[[service]]\naddress = \"{address}\"\nmode = \"splice\"\n{settings}\n{check}\n");
    for backend in backends {
        writeln!(text, "[[service.backend]]\naddress = \"{backend}\"").unwrap();
    }
    text
}

/// What [`banner`] says.
pub(crate) const BANNER: &str = "220 levee.lab ready\r\n";

/// A server that speaks first, then echoes.
pub(crate) fn banner(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(BANNER.as_bytes())?;
    io::copy(&mut stream.try_clone()?, &mut stream)?;
    Ok(())
}

/// Reads what [`banner`] says.
#[track_caller]
pub(crate) fn assert_banner(mut stream: &TcpStream) {
    let mut bytes = [0; BANNER.len()];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), BANNER);
}

/// A server that says who the client is, then closes.
pub(crate) fn who(mut stream: TcpStream) -> io::Result<()> {
    let peer = stream.peer_addr()?;
    stream.write_all(peer.to_string().as_bytes())
}

/// Expects a RST, within [`LIMIT`].
#[track_caller]
pub(crate) fn assert_reset(mut stream: &TcpStream) {
    let error = stream.read(&mut [0]).expect_err("a RST");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
}

/// Connects with little patience and tells how it failed: a client of `splice` mode learns of a
/// refusal only after it has connected.
#[track_caller]
pub(crate) fn assert_turned_away(netns: &Netns, address: SocketAddr) {
    let stream = netns.run(|| Ok(TcpStream::connect_timeout(&address, LIMIT)?));
    let Ok(stream) = stream else {
        return;
    };
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    assert_reset(&stream);
}

/// A word each way on every connection.
pub(crate) fn exchange(pairs: &[(TcpStream, TcpStream)], word: u8) {
    let text = [word; 1000];
    for (client, server) in pairs {
        for (mut from, mut to) in [(client, server), (server, client)] {
            let mut read = [0; 1000];
            from.write_all(&text).unwrap();
            to.read_exact(&mut read).unwrap();
            assert_eq!(read, text);
        }
    }
}
