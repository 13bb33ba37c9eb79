//! A proxy on loopback with peers that do as they are told.

use std::{
    env,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd as _, AsRawFd as _},
    process,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, poll};
use socket2::{Domain, SockRef, Socket, Type};

use crate::{
    config::{Backend, Balance, Mode, ProxyGlobals, ProxyService, Service, Target},
    engine::{
        reason::{CloseReason, Refusal},
        tcp::TcpState,
    },
    proxy::{Proxy, runtime::ServiceRuntime},
    secret::Secret,
    startup::Former,
};

/// Nothing here takes as long, however busy the machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// An address of loopback that no other test uses, in this process or another.
pub(super) fn address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let [_, _, high, low] = process::id().to_be_bytes();
    let number = NEXT.fetch_add(1, Relaxed);
    let ip = Ipv4Addr::new(127, 64 | high & 63, low, 1 + (number % 250) as u8);
    SocketAddr::new(ip.into(), 10_000 + (number / 250) as u16)
}

/// A service with defaults, and these backends.
pub(super) fn options(backends: &[SocketAddr]) -> ProxyService {
    let backends = backends.iter().enumerate().map(|(n, &address)| Backend {
        name: format!("b{n}"),
        target: Target::Address(address),
        weight: 1,
        connections_max: 0,
    });
    ProxyService {
        backends: backends.collect(),
        balance: Balance::RoundRobin,
        check: None,
        health: Default::default(),
        timeouts: Default::default(),
        retries: 2,
        half_open_max: 4_096,
        limits: Default::default(),
        send_proxy: None,
        accept_proxy: Vec::new(),
        accept_proxy_required: true,
        transparent: false,
        spliced: false,
        source: Vec::new(),
        keepalive: [None; 2],
    }
}

/// A service of the configuration.
pub(super) fn service(name: &str, address: SocketAddr, options: ProxyService) -> Service {
    Service {
        name: name.into(),
        address,
        mss: None,
        window_scale: None,
        window: None,
        mode: Mode::Proxy(Arc::new(options)),
    }
}

/// A proxy with one service.
pub(super) struct Lab {
    pub(super) proxy: Proxy,
    pub(super) address: SocketAddr,
}

impl Lab {
    pub(super) fn new(options: ProxyService) -> Self {
        let globals = ProxyGlobals {
            workers: Some(2),
            ..Default::default()
        };
        Self::with(&globals, options)
    }

    pub(super) fn with(globals: &ProxyGlobals, options: ProxyService) -> Self {
        let address = address();
        let services = [service("s", address, options)];
        let proxy = Proxy::start(globals, &services, &Secret::new([7; 32]), Former::Dead).unwrap();
        Self { proxy, address }
    }

    pub(super) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub(super) fn service(&self) -> Arc<ServiceRuntime> {
        Arc::clone(&self.proxy.services()[0])
    }

    pub(super) fn closed(&self, reason: CloseReason) -> u64 {
        self.service().stats.closed[reason.index()].get()
    }

    /// Waits until connections have ended for this reason, and for no other, and checks that
    /// nothing is left of them.
    #[track_caller]
    pub(super) fn ends(&self, reason: CloseReason, connections: u64) {
        until(|| self.closed(reason) == connections);
        self.nothing_left();
        let closed = &self.service().stats.closed;
        let all: u64 = closed.iter().map(|counter| counter.get()).sum();
        assert_eq!(all, connections, "{closed:?}");
    }

    /// Legs in this state, both sides together.
    pub(super) fn in_state(&self, state: TcpState) -> u64 {
        let states = &self.service().stats.states;
        states.iter().map(|side| side[state.index()].get()).sum()
    }

    /// Waits until there is no connection, and checks that all gauges are 0.
    #[track_caller]
    pub(super) fn nothing_left(&self) {
        until(|| self.proxy.connections() == 0);
        let service = self.service();
        for gauges in &service.stats.states {
            for (gauge, state) in gauges.iter().zip(TcpState::ALL) {
                assert_eq!(gauge.get(), 0, "{state}");
            }
        }
        for backend in &service.pool.load().backends {
            assert_eq!(backend.active.load(Relaxed), 0);
        }
        for worker in self.proxy.workers() {
            assert_eq!(worker.buffered_bytes.get(), 0);
            assert_eq!(worker.pipes_in_use.get(), 0);
            assert_eq!(worker.panics.get(), 0);
        }
        assert_eq!(service.stats.half_open.get(), 0);
        assert_eq!(service.active.load(Relaxed), 0);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            let stats = &self.service().stats;
            for (reason, count) in CloseReason::ALL.iter().zip(&stats.closed) {
                if count.get() > 0 {
                    eprintln!("{} ended: {}", count.get(), reason.label());
                }
            }
            for (reason, count) in Refusal::ALL.iter().zip(&stats.refused) {
                if count.get() > 0 {
                    eprintln!("{} refused: {}", count.get(), reason.label());
                }
            }
        }
    }
}

/// Waits for a condition.
#[track_caller]
pub(super) fn until(mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "it did not happen");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Accepts one connection in its own thread and hands it to `serve`.
pub(super) fn backend<T: Send + 'static>(
    serve: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (SocketAddr, thread::JoinHandle<T>) {
    let listener = TcpListener::bind(address()).unwrap();
    let address = listener.local_addr().unwrap();
    let thread = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        serve(stream)
    });
    (address, thread)
}

/// Returns everything until the FIN, or the RST, and then closes.
fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 128 << 10];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}

/// Echoes for any number of connections, as long as the process lives.
pub(super) fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind(address()).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            match stream {
                Ok(stream) => drop(thread::spawn(move || echo(stream))),
                // No descriptors, which a test may be about.
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        }
    });
    address
}

/// Bytes that differ at every place and between seeds.
pub(super) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let words = len.div_ceil(8);
    let mut bytes = Vec::with_capacity(words * 8);
    for _ in 0..words {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Reads up to the FIN.
pub(super) fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Sends a FIN.
pub(super) fn fin(stream: &TcpStream) {
    stream.shutdown(Shutdown::Write).unwrap();
}

/// Sends a RST.
pub(super) fn rst(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

/// Reads to the end, which has to be a RST; returns what came before it.
#[track_caller]
pub(super) fn read_to_rst(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => panic!("a FIN after {} bytes, not a RST", bytes.len()),
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                return bytes;
            }
        }
    }
}

/// Reads to the end, however it ends.
pub(super) fn read_until_error(stream: &mut TcpStream, bytes: &mut Vec<u8>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                return;
            }
        }
    }
}

/// Waits until the peer has acknowledged everything.
pub(super) fn until_sent(stream: &TcpStream) {
    nix::ioctl_read_bad!(unacknowledged, nix::libc::TIOCOUTQ, nix::libc::c_int);
    until(|| {
        let mut bytes = 0;
        // SAFETY: the descriptor is open, and the kernel writes one int to where `bytes` is.
        unsafe { unacknowledged(stream.as_raw_fd(), &raw mut bytes) }.unwrap();
        bytes == 0
    });
}

/// Waits until the connection broke without a read or a write; false when that does not happen.
pub(super) fn broken(stream: &TcpStream) -> bool {
    let mut asked = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    let ready = poll(&mut asked, PATIENCE.as_millis() as u16).unwrap();
    ready == 1 && stream.take_error().unwrap().is_some()
}

/// A listener that answers no SYN: its queue is full.
pub(super) struct BlackHole {
    pub(super) address: SocketAddr,
    _sockets: Vec<Socket>,
}

impl BlackHole {
    pub(super) fn new() -> Self {
        let address = address();
        let kind = Type::STREAM.nonblocking();
        let listener = Socket::new(Domain::IPV4, kind, None).unwrap();
        listener.bind(&address.into()).unwrap();
        listener.listen(0).unwrap();
        let mut sockets = vec![listener];
        for _ in 0..4 {
            let filler = Socket::new(Domain::IPV4, kind, None).unwrap();
            // In progress, or for ever.
            filler.connect(&address.into()).ok();
            sockets.push(filler);
        }
        Self {
            address,
            _sockets: sockets,
        }
    }
}

/// Waits for what the controller would wait for.
pub(super) fn on_control<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime.unwrap().block_on(future)
}

/// Whether this process runs only the test `name`, by its full path. If not, runs one that does:
/// for what is counted by process.
#[must_use]
pub(super) fn alone(name: &str) -> bool {
    const MARK: &str = "LEVEE_TEST_ALONE";
    if env::var_os(MARK).is_some() {
        return true;
    }
    let (_, name) = name.split_once("::").unwrap();
    let output = process::Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(MARK, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    assert!(said.contains("1 passed"), "{said}");
    false
}
