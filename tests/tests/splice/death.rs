//! levee dies and comes back, or another takes over from it: connections do not notice, new clients
//! wait a moment.

use std::{
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use levee_tests::{
    levee::Levee,
    sockets::{assert_echo, connect, echo, eventually, kernel_counter},
    splice_lab::SpliceLab,
};

use crate::common::{Stage, addresses, exchange};

/// Segments that client and backend have sent again.
fn repeated(lab: &SpliceLab) -> u64 {
    let counts = [&lab.client, &lab.backend].map(|netns| kernel_counter(netns, "TcpRetransSegs"));
    counts.iter().sum()
}

/// A word each way on every connection, over and over until `enough`, paced: nothing is sent again
/// but what was lost.
fn talk(pairs: &[(TcpStream, TcpStream)], enough: &AtomicBool) {
    let mut number = 0_u8;
    while !enough.load(Relaxed) {
        number = number.wrapping_add(1);
        exchange(pairs, number);
        thread::sleep(Duration::from_millis(2));
    }
}

/// Two connections talk while something happens to levee.
fn lose_nothing(happens: impl FnOnce(&mut Levee)) {
    let mut stage = Stage::plain();
    let pairs = [stage.pair(0), stage.pair(1)];
    let before = repeated(&stage.lab);
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        let talk = scope.spawn(|| talk(&pairs, &enough));
        thread::sleep(Duration::from_millis(500));
        happens(&mut stage.levee);
        thread::sleep(Duration::from_millis(500));
        enough.store(true, Relaxed);
        talk.join().unwrap();
    });
    assert_eq!(repeated(&stage.lab) - before, 0, "segments were lost");
    eventually("it knows them", || stage.connections() == 2);
}

#[test]
fn established_connections_lose_nothing_when_levee_is_killed() {
    lose_nothing(|levee| {
        levee.kill().unwrap();
        thread::sleep(Duration::from_millis(1_500));
        levee.start_again().unwrap();
    });
}

#[test]
fn established_connections_lose_nothing_when_levee_is_replaced() {
    lose_nothing(|levee| levee.replace().unwrap());
}

/// How long a client may have to wait, from its connection to its first answer.
const LIMIT: Duration = Duration::from_secs(2);

/// A SYN-ACK is still sent; the handshake goes on when there is an engine again.
#[test]
fn new_clients_are_served_within_two_seconds_of_the_return() {
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

/// In the moment between the two engines nobody opens connections: what a client sends then, it
/// sends again.
#[test]
fn new_clients_are_served_while_levee_is_replaced() {
    let mut stage = Stage::plain();
    let _servers = stage.serve(echo);
    let replaced = &AtomicBool::new(false);
    let client = &stage.lab.client;
    let longest = thread::scope(|scope| {
        let clients = addresses().map(|address| {
            scope.spawn(move || {
                let mut longest = Duration::ZERO;
                while !replaced.load(Relaxed) {
                    let start = Instant::now();
                    assert_echo(&connect(client, address), "all the time");
                    longest = longest.max(start.elapsed());
                }
                longest
            })
        });
        for _ in 0..5 {
            stage.levee.replace().unwrap();
            thread::sleep(Duration::from_millis(200));
        }
        replaced.store(true, Relaxed);
        clients.map(|client| client.join().unwrap())
    });
    println!("longest: {longest:?}");
    assert!(longest.iter().all(|wait| *wait < LIMIT), "{longest:?}");
}
