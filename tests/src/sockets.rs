//! Sockets in the lab's namespaces, for tests: everything here panics when something that should
//! happen does not, within [`LIMIT`].
use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{ifaddrs::getifaddrs, sys::socket::bind};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::netns::Netns;

/// How long anything that should happen at once may take: the machine may be busy.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Connects from a namespace; reads and writes on the stream then fail after [`LIMIT`].
pub fn connect(netns: &Netns, address: SocketAddr) -> TcpStream {
    try_connect(netns, address).unwrap_or_else(|error| panic!("{address}: {error:#}"))
}

/// As [`connect`], for connections that may fail.
pub fn try_connect(netns: &Netns, address: SocketAddr) -> Result<TcpStream> {
    let stream = netns.run(|| Ok(TcpStream::connect_timeout(&address, LIMIT)?))?;
    limited(&stream)?;
    Ok(stream)
}

fn limited(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))
}

/// Listens in a namespace.
pub fn listen(netns: &Netns, address: SocketAddr) -> TcpListener {
    netns.run(|| Ok(TcpListener::bind(address)?)).unwrap()
}

/// Takes the next connection; fails after [`LIMIT`].
pub fn accept(listener: &TcpListener) -> TcpStream {
    SockRef::from(listener)
        .set_read_timeout(Some(LIMIT))
        .unwrap();
    let (stream, _) = listener.accept().expect("a connection arrives");
    limited(&stream).unwrap();
    stream
}

/// Sends a line and expects it back from an [`echo`] server.
pub fn assert_echo(mut stream: &TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(String::from_utf8(back).unwrap(), text);
}

/// Sends back whatever comes.
pub fn echo(mut stream: TcpStream) -> io::Result<()> {
    io::copy(&mut stream.try_clone()?, &mut stream)?;
    Ok(())
}

/// A server with a thread for each connection; stops accepting when dropped.
pub struct Server {
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves every connection to `address` with `handler`.
    pub fn start(
        netns: &Netns,
        address: SocketAddr,
        handler: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static,
    ) -> Self {
        Self::on(listen(netns, address), handler)
    }

    /// As [`start`](Self::start), where somebody listens already.
    pub fn on(
        listener: TcpListener,
        handler: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("it is bound");
        let listener = Arc::new(listener);
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

/// A socket that sends and receives whole frames on an interface; reads give up after 100 ms.
///
/// # Errors
/// Fails without root, and when the interface does not exist.
pub fn packet_socket(netns: &Netns, interface: &str) -> Result<Socket> {
    const ETH_P_ALL: u16 = 3;
    netns.run(|| {
        let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
        let link = getifaddrs()?
            .filter(|found| found.interface_name == interface)
            .find_map(|found| found.address?.as_link_addr().copied())
            .with_context(|| format!("no interface {interface} in {}", netns.name()))?;
        bind(socket.as_raw_fd(), &link)?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        Ok(socket)
    })
}

/// One of the kernel's counters of a namespace, by its name in `nstat`.
pub fn kernel_counter(netns: &Netns, name: &str) -> u64 {
    let text = netns.tool(&format!("nstat -asz {name}")).unwrap();
    let mut words = text.split_whitespace().skip_while(|&word| word != name);
    words.nth(1).expect("the counter exists").parse().unwrap()
}

/// Ends a connection with RST.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(stream);
}

/// Reads everything until FIN.
#[track_caller]
pub fn read_all(mut stream: &TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        panic!("{error} after {} bytes", bytes.len());
    }
    bytes
}

/// Waits until something is so.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not after {LIMIT:?}");
        thread::sleep(Duration::from_millis(20));
    }
}
