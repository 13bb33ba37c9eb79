//! levee dies and comes back: connections do not notice, new clients wait for its return.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use levee_tests::{
    sockets::{assert_echo, echo, eventually, kernel_counter},
    splice_lab::SpliceLab,
};

use crate::common::{Stage, addresses};

/// Segments that client and backend have sent again.
fn repeated(lab: &SpliceLab) -> u64 {
    let counts = [&lab.client, &lab.backend].map(|netns| kernel_counter(netns, "TcpRetransSegs"));
    counts.iter().sum()
}

/// A word each way on every connection, over and over until `enough`, paced: nothing is sent again
/// but what was lost.
fn talk(pairs: &[(TcpStream, TcpStream)], enough: &AtomicBool) {
    let mut text = [0_u8; 1000];
    while !enough.load(Relaxed) {
        text[0] = text[0].wrapping_add(1);
        for (client, server) in pairs {
            for (mut from, mut to) in [(client, server), (server, client)] {
                let mut read = [0; 1000];
                from.write_all(&text).unwrap();
                to.read_exact(&mut read).unwrap();
                assert_eq!(read, text);
            }
        }
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn established_connections_lose_nothing_when_levee_is_killed() {
    let mut stage = Stage::plain();
    let pairs = [stage.pair(0), stage.pair(1)];
    let before = repeated(&stage.lab);
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        let talk = scope.spawn(|| talk(&pairs, &enough));
        thread::sleep(Duration::from_millis(500));
        stage.levee.kill().unwrap();
        thread::sleep(Duration::from_millis(1_500));
        stage.levee.start_again().unwrap();
        thread::sleep(Duration::from_millis(500));
        enough.store(true, Relaxed);
        talk.join().unwrap();
    });
    assert_eq!(repeated(&stage.lab) - before, 0, "segments were lost");
    eventually("it knows them", || stage.connections() == 2);
}

/// A SYN-ACK is still sent; the handshake goes on when there is an engine again.
#[test]
fn new_clients_are_served_within_two_seconds_of_the_return() {
    const LIMIT: Duration = Duration::from_secs(2);
    let mut stage = Stage::plain();
    let _servers = stage.serve(echo);
    stage.levee.kill().unwrap();
    let clients = addresses().map(|address| stage.connect(address));
    thread::sleep(Duration::from_secs(1));
    stage.levee.start_again().unwrap();
    let start = Instant::now();
    for client in &clients {
        assert_echo(client, "at last");
    }
    let elapsed = start.elapsed();
    println!("served {elapsed:?} after levee's return");
    assert!(elapsed < LIMIT, "{elapsed:?}");
}
