//! A proxy on loopback with peers that do as they are told.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    process,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use socket2::SockRef;

use crate::{
    config::{Backend, Balance, Mode, ProxyGlobals, ProxyService, Service, Target},
    engine::{reason::CloseReason, tcp::TcpState},
    proxy::{Proxy, runtime::ServiceRuntime},
    secret::Secret,
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
        half_open_max: 64,
        limits: Default::default(),
        send_proxy: None,
        accept_proxy: Vec::new(),
        accept_proxy_required: true,
        transparent: false,
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
        let proxy = Proxy::start(globals, &services, &Secret::new([7; 32])).unwrap();
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

/// Returns everything until the FIN, and then closes.
pub(super) fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 128 << 10];
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => return,
            n => stream.write_all(&buffer[..n]).unwrap(),
        }
    }
}

/// Echoes for any number of connections, as long as the process lives.
pub(super) fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind(address()).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            // A connection that is reset ends its own thread only.
            thread::spawn(move || echo(stream.unwrap()));
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
