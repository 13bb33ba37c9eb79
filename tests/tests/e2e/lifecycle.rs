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
    sockets::{Server, assert_echo, connect, echo},
    topology::{Lab, host_addresses},
};

use crate::common::{Counted, PORT, lab, protect};

/// How long a connection may take, from the SYN to the echo: less than the second after which a
/// lost SYN is sent again, so that a lost packet is a failure.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(900);

/// Connections one after the other, until they are stopped, and what became of them.
#[derive(Debug, Default)]
struct Clients {
    stop: AtomicBool,
    succeeded: AtomicU64,
}

impl Clients {
    /// Connects over and over from the client's namespace while `during` runs; returns how many
    /// connections there were. None may fail.
    fn run(lab: &Lab, service: SocketAddr, during: impl FnOnce(&Self)) -> u64 {
        let clients = Self::default();
        thread::scope(|scope| {
            let client = scope.spawn(|| clients.connect(&lab.client, service));
            during(&clients);
            clients.stop.store(true, Relaxed);
            client.join().unwrap();
        });
        clients.succeeded.load(Relaxed)
    }

    fn connect(&self, netns: &Netns, service: SocketAddr) {
        netns.enter().unwrap();
        while !self.stop.load(Relaxed) {
            let number = self.succeeded.load(Relaxed);
            exchange(service).unwrap_or_else(|error| panic!("connection {number}: {error}"));
            self.succeeded.fetch_add(1, Relaxed);
        }
    }

    /// Waits for more of them.
    fn wait_for_more(&self) {
        let enough = self.succeeded.load(Relaxed) + 20;
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.succeeded.load(Relaxed) < enough {
            assert!(Instant::now() < deadline, "connections go on");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// One connection on which something is echoed.
fn exchange(service: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&service, CONNECT_TIMEOUT)?;
    stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
    stream.write_all(b"hello")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"hello");
    Ok(())
}

#[test]
fn the_data_path_outlives_levee() {
    let lab = lab();
    let mut levee = protect(&lab);
    let [service, _] = host_addresses(PORT);
    let _server = Server::start(&lab.host, service, echo);
    let long = connect(&lab.client, service);
    assert_echo(&long, "before");
    let connections = Clients::run(&lab, service, |clients| {
        clients.wait_for_more();
        levee.kill().unwrap();
        clients.wait_for_more();
        levee.start_again().unwrap();
        clients.wait_for_more();
    });
    assert_echo(&long, "after");
    let counted = Counted::read(&levee);
    println!("{connections} connections, none failed; {counted:?}");
    // Those made before, while and after nobody controlled the data path.
    counted.assert_admitted(connections + 1);
    assert!(levee.log().unwrap().contains("took over the data path"));

    let pins = levee.pins();
    assert!(pins.exists());
    levee.stop().unwrap();
    assert!(!pins.exists(), "an orderly stop removes the pins");
}
