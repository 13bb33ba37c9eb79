//! Every state ends in time, and with the reason that belongs to it.

use std::{io::Write as _, thread, time::Duration};

use super::support::*;
use crate::{
    config::{ProxyService, Timeouts},
    engine::reason::CloseReason,
};

/// No timeouts but one.
fn only(backend: std::net::SocketAddr, timeouts: impl FnOnce(&mut Timeouts)) -> ProxyService {
    let mut options = options(&[backend]);
    options.retries = 0;
    options.timeouts = Timeouts {
        header_ms: 0,
        connect_ms: 0,
        first_byte_ms: 0,
        idle_ms: 0,
        close_wait_ms: 0,
        fin_wait_ms: 0,
    };
    timeouts(&mut options.timeouts);
    options
}

#[test]
fn silence_since_the_start() {
    let lab = Lab::new(only(echo_server(), |t| t.first_byte_ms = 50));
    assert_eq!(read_to_rst(&mut lab.connect()), b"");
    lab.ends(CloseReason::FirstByteTimeout, 1);
}

#[test]
fn silence_later() {
    let lab = Lab::new(only(echo_server(), |t| t.idle_ms = 300));
    let mut client = lab.connect();
    // Bytes put the end off, without a word to the wheel.
    for _ in 0..5 {
        thread::sleep(Duration::from_millis(100));
        client.write_all(b"x").unwrap();
    }
    until(|| lab.service().stats.bytes[1].get() == 5);
    let mut received = Vec::new();
    read_until_error(&mut client, &mut received);
    lab.ends(CloseReason::IdleTimeout, 1);
}

#[test]
fn the_client_closed_and_the_backend_does_not() {
    let (backend, served) = backend(|mut stream| {
        read_all(&mut stream);
        broken(&stream)
    });
    let lab = Lab::new(only(backend, |t| t.close_wait_ms = 50));
    let mut client = lab.connect();
    fin(&client);
    assert_eq!(read_to_rst(&mut client), b"");
    assert!(served.join().unwrap());
    lab.ends(CloseReason::CloseWaitTimeout, 1);
}

#[test]
fn the_backend_closed_and_the_client_does_not() {
    let (backend, served) = backend(|stream| {
        fin(&stream);
        broken(&stream)
    });
    let lab = Lab::new(only(backend, |t| t.fin_wait_ms = 50));
    let mut client = lab.connect();
    assert_eq!(read_all(&mut client), b"");
    assert!(served.join().unwrap());
    assert!(broken(&client));
    lab.ends(CloseReason::FinWaitTimeout, 1);
}

#[test]
fn no_answer_to_a_connect() {
    let hole = BlackHole::new();
    let lab = Lab::new(only(hole.address, |t| t.connect_ms = 50));
    assert_eq!(read_to_rst(&mut lab.connect()), b"");
    lab.ends(CloseReason::ConnectTimeout, 1);
}

#[test]
fn another_backend_is_tried_when_one_does_not_answer() {
    let hole = BlackHole::new();
    let mut options = only(hole.address, |t| t.connect_ms = 50);
    options.retries = 1;
    let second = super::support::options(&[hole.address, echo_server()]);
    options.backends = second.backends;
    let lab = Lab::new(options);
    for _ in 0..4 {
        let mut client = lab.connect();
        client.write_all(b"x").unwrap();
        fin(&client);
        assert_eq!(read_all(&mut client), b"x");
    }
    lab.ends(CloseReason::Finished, 4);
    assert!(lab.service().stats.retries.get() > 0);
}

#[test]
fn thousands_of_deadlines_at_once() {
    let lab = Lab::new(only(echo_server(), |t| t.idle_ms = 400));
    let mut clients: Vec<_> = (0..300).map(|_| lab.connect()).collect();
    for client in &mut clients {
        assert_eq!(read_to_rst(client), b"");
    }
    lab.ends(CloseReason::IdleTimeout, 300);
    let fired: u64 = lab
        .proxy
        .workers()
        .iter()
        .map(|w| w.wheel_fired.get())
        .sum();
    assert!(fired >= 300);
}
