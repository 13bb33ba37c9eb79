//! Long connections: every byte arrives, whatever levee does meanwhile.

use std::{
    fs,
    io::Write as _,
    net::{Shutdown, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use levee_tests::{
    levee::Levee,
    pattern::{BLOCK, Pattern, both_ways},
    sockets::{LIMIT, Server, accept, assert_echo, connect, echo, listen},
    topology::{INTERFACE, Lab, host_addresses},
};

use crate::common::{Counted, PORT, lab, passed, protect};

const BLOCKS: u64 = 100_000_000_u64.div_ceil(BLOCK as u64);

#[test]
fn a_hundred_megabytes_each_way() {
    let lab = lab();
    let levee = protect(&lab);
    for address in host_addresses(PORT) {
        let listener = listen(&lab.host, address);
        let client = connect(&lab.client, address);
        both_ways(&client, &accept(&listener), BLOCKS);
    }
    let counted = Counted::read(&levee);
    println!("{counted:?}");
    assert_eq!(counted.admitted, 2);
}

/// A levee that keeps its secret over restarts.
fn with_own_secret(lab: &Lab) -> Levee {
    let file = |name: &str| lab.scratch().join(name).display().to_string();
    let mut arguments = vec![
        "run".to_owned(),
        format!("--iface={INTERFACE}"),
        format!("--secret-file={}", file("secret")),
        format!("--control-socket={}", file("levee.sock")),
    ];
    arguments.extend(host_addresses(PORT).map(|address| format!("--protect={address}")));
    Levee::start(&lab.host, &arguments).unwrap()
}

fn stop(levee: Levee) {
    let (status, log) = levee.stop().unwrap();
    assert!(status.success(), "{status}: {log}");
}

/// Sends blocks, paced, until told to stop; returns how many.
fn send_until(stop: &AtomicBool, mut stream: &TcpStream) -> u64 {
    const BLOCKS_MAX: u64 = 30_000;
    let mut pattern = Pattern::new(0);
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) && sent < BLOCKS_MAX {
        stream.write_all(pattern.numbered(sent)).unwrap();
        sent += 1;
        thread::sleep(Duration::from_millis(2));
    }
    stream.shutdown(Shutdown::Write).unwrap();
    sent
}

#[test]
fn no_byte_is_lost_over_restarts() {
    const RESTARTS: u32 = 3;
    let lab = lab();
    let address = host_addresses(PORT)[0];
    let mut levee = with_own_secret(&lab);
    let secret = fs::read(lab.scratch().join("secret")).unwrap();
    let listener = listen(&lab.host, address);
    let client = connect(&lab.client, address);
    let server = accept(&listener);
    let done = AtomicBool::new(false);
    let levee = thread::scope(|scope| {
        let sender = scope.spawn(|| send_until(&done, &client));
        let receiver = scope.spawn(|| Pattern::new(0).expect(&server));
        for _ in 0..RESTARTS {
            stop(levee);
            levee = with_own_secret(&lab);
        }
        assert!(!sender.is_finished(), "the transfer outlasts the restarts");
        done.store(true, Ordering::Relaxed);
        let (sent, received) = (sender.join().unwrap(), receiver.join().unwrap());
        println!("{sent} blocks of {BLOCK} bytes over {RESTARTS} restarts");
        assert_eq!(received, sent);
        levee
    });
    assert_eq!(fs::read(lab.scratch().join("secret")).unwrap(), secret);
    println!("{:?} since the last start", Counted::read(&levee));
}

#[test]
fn connections_outlive_start_and_stop() {
    let lab = lab();
    let addresses = host_addresses(PORT);
    let _servers = addresses.map(|address| Server::start(&lab.host, address, echo));
    let before = addresses.map(|address| connect(&lab.client, address));
    for stream in &before {
        assert_echo(stream, "before levee");
    }
    let levee = protect(&lab);
    for stream in &before {
        assert_echo(stream, "since levee started");
    }
    let during = addresses.map(|address| connect(&lab.client, address));
    for stream in &during {
        assert_echo(stream, "by levee");
    }
    let (known, counted) = (passed(&levee, "connection"), Counted::read(&levee));
    println!("{known} packets of connections; {counted:?}");
    assert!(known > 0);
    assert_eq!((counted.admitted, counted.invalid), (2, 0));
    stop(levee);
    for stream in before.iter().chain(&during) {
        assert_echo(stream, "since levee stopped");
    }
    for address in addresses {
        assert_echo(&connect(&lab.client, address), "after levee");
    }
}

/// A client whose SYN was answered by one levee comes back to the next.
#[test]
fn clients_get_through_while_levee_restarts() {
    let lab = lab();
    let address = host_addresses(PORT)[0];
    let _server = Server::start(&lab.host, address, echo);
    let mut levee = with_own_secret(&lab);
    let levee = thread::scope(|scope| {
        let clients = scope.spawn(|| {
            let start = Instant::now();
            let mut connections = 0;
            while start.elapsed() < Duration::from_secs(4) && start.elapsed() < LIMIT {
                assert_echo(&connect(&lab.client, address), "hello");
                connections += 1;
                thread::sleep(Duration::from_millis(5));
            }
            connections
        });
        while !clients.is_finished() {
            stop(levee);
            levee = with_own_secret(&lab);
            thread::sleep(Duration::from_millis(500));
        }
        println!("{} connections, none failed", clients.join().unwrap());
        levee
    });
    println!("{:?}", Counted::read(&levee));
}
