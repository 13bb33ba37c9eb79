//! What the end-to-end tests share: a lab with levee in it, sockets in its namespaces, a server.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Result;
use levee_tests::{
    levee::Levee,
    metrics::Metrics,
    netns::Netns,
    topology::{INTERFACE, Lab, LabOptions, host_addresses},
};
use socket2::SockRef;

/// The protected port.
pub(crate) const PORT: u16 = 80;

/// A port that levee does not protect: what a client meets without levee.
pub(crate) const PLAIN_PORT: u16 = 81;

/// How long anything that should happen at once may take: the machine may be busy.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// What nginx serves.
pub(crate) const PAGE: &str = "levee lab\n";

/// A lab without VLAN tags.
pub(crate) fn lab() -> Lab {
    Lab::new(&LabOptions::default()).unwrap()
}

/// Starts levee for [`PORT`] over IPv4 and IPv6.
pub(crate) fn protect(lab: &Lab) -> Levee {
    Levee::protect(&lab.host, &[INTERFACE], &host_addresses(PORT)).unwrap()
}

/// Connects from a namespace; reads and writes on the stream then fail after [`LIMIT`].
pub(crate) fn connect(netns: &Netns, address: SocketAddr) -> TcpStream {
    try_connect(netns, address).unwrap_or_else(|error| panic!("{address}: {error:#}"))
}

/// As [`connect`], for connections that may fail.
pub(crate) fn try_connect(netns: &Netns, address: SocketAddr) -> Result<TcpStream> {
    let stream = netns.run(|| Ok(TcpStream::connect_timeout(&address, LIMIT)?))?;
    limited(&stream)?;
    Ok(stream)
}

fn limited(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))
}

/// Listens in a namespace.
pub(crate) fn listen(netns: &Netns, address: SocketAddr) -> TcpListener {
    netns.run(|| Ok(TcpListener::bind(address)?)).unwrap()
}

/// Takes the next connection; fails after [`LIMIT`].
pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    SockRef::from(listener)
        .set_read_timeout(Some(LIMIT))
        .unwrap();
    let (stream, _) = listener.accept().expect("a connection arrives");
    limited(&stream).unwrap();
    stream
}

/// Sends a line and expects it back from an [`echo`] server.
pub(crate) fn assert_echo(mut stream: &TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(String::from_utf8(back).unwrap(), text);
}

/// Sends back whatever comes.
pub(crate) fn echo(mut stream: TcpStream) -> io::Result<()> {
    io::copy(&mut stream.try_clone()?, &mut stream)?;
    Ok(())
}

/// A server with a thread for each connection; stops accepting when dropped.
pub(crate) struct Server {
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves every connection to `address` with `handler`.
    pub(crate) fn start(
        netns: &Netns,
        address: SocketAddr,
        handler: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static,
    ) -> Self {
        let listener = Arc::new(listen(netns, address));
        let thread = thread::spawn({
            let listener = Arc::clone(&listener);
            move || {
                // Ends when the listener is shut down.
                while let Ok((stream, peer)) = listener.accept() {
                    let handler = handler.clone();
                    thread::spawn(move || {
                        if let Err(error) = limited(&stream).and_then(|()| handler(stream)) {
                            println!("server {address}: client {peer}: {error}");
                        }
                    });
                }
            }
        });
        Self {
            listener,
            thread: Some(thread),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        SockRef::from(&*self.listener)
            .shutdown(std::net::Shutdown::Both)
            .expect("the listener is open");
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server does not panic");
        }
    }
}

/// levee's counters, summed over its services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Cookies sent.
    pub(crate) sent: u64,
    /// Valid cookies returned.
    pub(crate) valid: u64,
    /// Invalid ones.
    pub(crate) invalid: u64,
    /// Sockets that the kernel made.
    pub(crate) admitted: u64,
    /// Proven clients that nobody listened for.
    pub(crate) no_listener: u64,
    /// Proven clients that the kernel refused.
    pub(crate) refused: u64,
}

impl Counted {
    /// Exactly so many clients were admitted and none was turned away. A client's first data may
    /// return the cookie once more, before there is a socket.
    pub(crate) fn assert_admitted(&self, clients: u64) {
        assert_eq!(self.admitted, clients, "{self:?}");
        assert!(self.valid >= clients, "{self:?}");
        assert_eq!(self.no_listener + self.refused, 0, "{self:?}");
    }

    /// Reads them.
    pub(crate) fn read(levee: &Levee) -> Self {
        let metrics = levee.metrics().unwrap();
        let sum = |name, labels: &[_]| sum(&metrics, name, labels);
        let failures = "levee_admission_failures_total";
        Self {
            sent: sum("levee_syncookies_sent_total", &[]),
            valid: sum("levee_syncookies_valid_total", &[]),
            invalid: sum("levee_syncookies_invalid_total", &[]),
            admitted: sum("levee_connections_admitted_total", &[]),
            no_listener: sum(failures, &[("reason", "no_listener")]),
            refused: sum(failures, &[("reason", "refused")]),
        }
    }
}

/// Packets that levee passed for this reason.
pub(crate) fn passed(levee: &Levee, reason: &str) -> u64 {
    let metrics = levee.metrics().unwrap();
    sum(&metrics, "levee_pass_packets_total", &[("reason", reason)])
}

fn sum(metrics: &Metrics, name: &str, labels: &[(&str, &str)]) -> u64 {
    metrics.sum(name, labels) as u64
}

/// One of the kernel's counters of a namespace, by its name in `nstat`.
pub(crate) fn kernel_counter(netns: &Netns, name: &str) -> u64 {
    let text = netns.tool(&format!("nstat -asz {name}")).unwrap();
    let mut words = text.split_whitespace().skip_while(|&word| word != name);
    words.nth(1).expect("the counter exists").parse().unwrap()
}

/// Waits until something is so.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not after {LIMIT:?}");
        thread::sleep(Duration::from_millis(20));
    }
}
