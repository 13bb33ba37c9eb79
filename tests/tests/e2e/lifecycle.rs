//! The data path goes on when levee dies, and is handed over without anybody noticing.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use levee_tests::{
    netns::Netns,
    sockets::{LIMIT, Server, assert_echo, echo},
    topology::{Lab, host_addresses},
};

use crate::common::{Counted, PORT, lab, protect};

/// Between two connections: the client's ports last for the test, each of which rests a minute.
const PAUSE: Duration = Duration::from_millis(2);

/// Connections between two echoes on the one that lasts.
const ECHO_INTERVAL: u64 = 16;

/// Connections one after the other, until they are stopped, and what became of them.
#[derive(Debug, Default)]
struct Clients {
    stop: AtomicBool,
    connections: AtomicU64,
}

impl Clients {
    /// Connects over and over from the client's namespace while `during` runs, and uses another
    /// connection all the while; returns how many connections there were. None may fail.
    fn run(lab: &Lab, service: SocketAddr, during: impl FnOnce(&Self)) -> u64 {
        let clients = Self::default();
        thread::scope(|scope| {
            let client = scope.spawn(|| clients.connect(&lab.client, service));
            during(&clients);
            clients.stop.store(true, Relaxed);
            client.join().unwrap();
        });
        clients.connections.load(Relaxed)
    }

    fn connect(&self, netns: &Netns, service: SocketAddr) {
        netns.enter().unwrap();
        let long = TcpStream::connect(service).unwrap();
        while !self.stop.load(Relaxed) {
            let number = self.connections.fetch_add(1, Relaxed);
            exchange(service).unwrap_or_else(|error| panic!("connection {number}: {error}"));
            if number.is_multiple_of(ECHO_INTERVAL) {
                assert_echo(&long, "still here");
            }
            thread::sleep(PAUSE);
        }
        self.connections.fetch_add(1, Relaxed);
    }

    /// Waits for more of them.
    fn wait_for_more(&self) {
        let enough = self.connections.load(Relaxed) + 20;
        let deadline = Instant::now() + LIMIT;
        while self.connections.load(Relaxed) < enough {
            assert!(Instant::now() < deadline, "connections go on");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// One connection on which something is echoed.
fn exchange(service: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&service, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"hello")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"hello");
    Ok(())
}

/// Swaps of the data path in one test.
const SWAPS: u32 = 20;

#[test]
fn a_new_levee_takes_over_without_a_gap() {
    let lab = lab();
    let mut levee = protect(&lab);
    let [service, _] = host_addresses(PORT);
    let _server = Server::start(&lab.host, service, echo);
    let mut packets = 0;
    let connections = Clients::run(&lab, service, |clients| {
        for swap in 1..=SWAPS {
            levee.replace().unwrap();
            clients.wait_for_more();
            let metrics = levee.metrics().unwrap();
            let counted = metrics.sum("levee_xdp_packets_total", &[]) as u64;
            assert!(counted >= packets, "swap {swap}: {counted} after {packets}");
            packets = counted;
        }
    });
    let counted = Counted::read(&levee);
    println!("{SWAPS} swaps, {connections} connections, none failed; {counted:?}");
    counted.assert_admitted(connections);
    assert_eq!(counted.sent, connections, "no SYN had to be sent again");
}

#[test]
fn the_data_path_outlives_levee() {
    let lab = lab();
    let mut levee = protect(&lab);
    let [service, _] = host_addresses(PORT);
    let _server = Server::start(&lab.host, service, echo);
    let connections = Clients::run(&lab, service, |clients| {
        clients.wait_for_more();
        levee.kill().unwrap();
        clients.wait_for_more();
        levee.start_again().unwrap();
        clients.wait_for_more();
    });
    let counted = Counted::read(&levee);
    println!("{connections} connections, none failed; {counted:?}");
    // Those made before, while and after nobody controlled the data path.
    counted.assert_admitted(connections);
    assert!(levee.log().unwrap().contains("took over the data path"));

    let pins = levee.pins();
    assert!(pins.exists());
    levee.stop().unwrap();
    assert!(!pins.exists(), "an orderly stop removes the pins");
}
