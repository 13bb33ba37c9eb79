//! The cookies' keys change every 64 seconds, and nobody notices.

use std::{
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use levee_tests::{
    levee::Levee,
    server::Nginx,
    sockets::{Server, assert_echo, connect, echo},
    topology::host_addresses,
};

use crate::{
    common::{Counted, PAGE, PORT, lab},
    raw::{Connection, Habits, Wire},
};

/// Length of a key epoch, seconds; counted from the Unix epoch.
const EPOCH_S: f64 = 64.0;

/// A port of an echo server, beside nginx.
const ECHO_PORT: u16 = 82;

fn epoch(levee: &Levee) -> f64 {
    levee.metrics().unwrap().sum("levee_cookie_key_epoch", &[])
}

/// Until the next epoch starts.
fn until_next_epoch() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Duration::from_secs_f64(EPOCH_S - now.as_secs_f64() % EPOCH_S)
}

#[test]
fn a_change_of_keys_is_not_noticed() {
    /// Handshakes are opened this long before the change, and completed as long after it.
    const MARGIN: Duration = Duration::from_secs(3);
    let lab = lab();
    let services = [host_addresses(PORT), host_addresses(ECHO_PORT)].concat();
    let levee = Levee::protect(&lab.host, &[levee_tests::topology::INTERFACE], &services).unwrap();
    let _nginx = Nginx::start(&lab.host, &host_addresses(PORT)).unwrap();
    let echo_address = host_addresses(ECHO_PORT)[1];
    let _echo = Server::start(&lab.host, echo_address, echo);
    let long = connect(&lab.client, echo_address);

    if until_next_epoch() < MARGIN {
        thread::sleep(MARGIN);
    }
    let before = epoch(&levee);
    let change = Instant::now() + until_next_epoch();
    println!("the keys change in {:?}", change - Instant::now());
    let mut connections = 0;
    let mut connect_until = |end| {
        while Instant::now() < end {
            assert_echo(&long, "still here");
            assert_echo(&connect(&lab.client, echo_address), "hello");
            connections += 1;
            thread::sleep(Duration::from_millis(20));
        }
    };
    connect_until(change - MARGIN);
    let wire = Wire::open(&lab);
    let (mut half_open, _) = Connection::open(&wire, &Habits::default(), 42_000, PORT);
    connect_until(change + MARGIN);
    wire.forget();
    let page = half_open.get();
    assert!(page.ends_with(PAGE), "{page}");
    let counted = Counted::read(&levee);
    println!("{connections} connections, none failed; {counted:?}");
    assert_eq!(epoch(&levee), before + 1.0);
}
