//! A RST is passed on as the peers would have seen it without a proxy.

use std::{io::Write as _, sync::mpsc, thread, time::Duration};

use super::support::*;
use crate::engine::{reason::CloseReason, tcp::TcpState};

/// Fits into the buffers of any socket on the way.
const LITTLE: usize = 10_000;

#[test]
fn a_backend_that_refuses_is_a_rst_for_the_client() {
    let lab = Lab::new(options(&[address()]));
    assert_eq!(read_to_rst(&mut lab.connect()), b"");
    lab.ends(CloseReason::ConnectRefused, 1);
    // One backend, tried again as often as configured.
    assert_eq!(lab.service().stats.retries.get(), 2);
}

#[test]
fn another_backend_is_tried_when_one_refuses() {
    let lab = Lab::new(options(&[address(), echo_server(), address()]));
    for _ in 0..6 {
        let mut client = lab.connect();
        client.write_all(b"x").unwrap();
        fin(&client);
        assert_eq!(read_all(&mut client), b"x");
    }
    lab.ends(CloseReason::Finished, 6);
    assert!(lab.service().stats.retries.get() > 0);
}

#[test]
fn no_backend_is_a_rst() {
    let mut options = options(&[echo_server()]);
    options.backends[0].weight = 0;
    let lab = Lab::new(options);
    assert_eq!(read_to_rst(&mut lab.connect()), b"");
    lab.ends(CloseReason::NoBackend, 1);
}

#[test]
fn the_clients_reset_reaches_the_backend() {
    let (backend, served) = backend(|mut stream| read_to_rst(&mut stream));
    let lab = Lab::new(options(&[backend]));
    let client = lab.connect();
    until(|| lab.in_state(TcpState::Established) == 2);
    rst(client);
    assert_eq!(served.join().unwrap(), b"");
    lab.ends(CloseReason::ClientReset, 1);
}

#[test]
fn the_backends_reset_reaches_the_client() {
    let (backend, served) = backend(rst);
    let lab = Lab::new(options(&[backend]));
    assert_eq!(read_to_rst(&mut lab.connect()), b"");
    served.join().unwrap();
    lab.ends(CloseReason::BackendReset, 1);
}

#[test]
fn what_came_before_a_reset_arrives_before_it() {
    for _ in 0..50 {
        let (backend, served) = backend(|mut stream| {
            stream.write_all(&pattern(1, LITTLE)).unwrap();
            // A RST overtakes what this socket has not sent.
            until_sent(&stream);
            rst(stream);
        });
        let lab = Lab::new(options(&[backend]));
        let mut client = lab.connect();
        // The kernel gives a reader what came before the RST only if he reads before it comes.
        let mut received = Vec::new();
        read_until_error(&mut client, &mut received);
        assert!(pattern(1, LITTLE).starts_with(&received));
        served.join().unwrap();
        lab.ends(CloseReason::BackendReset, 1);
        assert_eq!(lab.service().stats.bytes[1].get(), LITTLE as u64);
    }
}

#[test]
fn a_reset_after_the_clients_fin_reaches_the_backend() {
    let (told, tell) = mpsc::channel::<()>();
    let (backend, served) = backend(move |mut stream| {
        assert_eq!(read_all(&mut stream), b"request");
        told.send(()).unwrap();
        // A write is what meets the RST.
        let answer = vec![0; LITTLE];
        while stream.write_all(&answer).is_ok() {
            thread::sleep(Duration::from_millis(1));
        }
    });
    let lab = Lab::new(options(&[backend]));
    let mut client = lab.connect();
    client.write_all(b"request").unwrap();
    fin(&client);
    tell.recv().unwrap();
    rst(client);
    served.join().unwrap();
    lab.ends(CloseReason::ClientReset, 1);
}

#[test]
fn a_silent_reset_after_the_fin_is_noticed() {
    let (backend, served) = backend(|mut stream| {
        assert_eq!(read_all(&mut stream), b"");
        // Half closed and silent: only the socket's error tells.
        broken(&stream)
    });
    let lab = Lab::new(options(&[backend]));
    let client = lab.connect();
    fin(&client);
    until(|| lab.in_state(TcpState::CloseWait) == 1);
    rst(client);
    assert!(served.join().unwrap());
    lab.ends(CloseReason::ClientReset, 1);
}

#[test]
fn a_reset_while_the_backend_is_being_connected_ends_that() {
    let hole = BlackHole::new();
    let lab = Lab::new(options(&[hole.address]));
    let client = lab.connect();
    until(|| lab.service().stats.half_open.get() == 1);
    rst(client);
    lab.ends(CloseReason::ClientReset, 1);
}

#[test]
fn fins_that_cross_end_the_connection() {
    let (backend, served) = backend(|stream| {
        fin(&stream);
        let mut stream = stream;
        read_all(&mut stream)
    });
    let lab = Lab::new(options(&[backend]));
    let mut client = lab.connect();
    fin(&client);
    assert_eq!(read_all(&mut client), b"");
    assert_eq!(served.join().unwrap(), b"");
    lab.ends(CloseReason::Finished, 1);
}

#[test]
fn dropping_the_proxy_closes_everything() {
    let lab = Lab::new(options(&[echo_server()]));
    let mut client = lab.connect();
    client.write_all(b"x").unwrap();
    until(|| lab.service().stats.bytes[1].get() == 1);
    let address = lab.address;
    drop(lab);
    let mut received = Vec::new();
    read_until_error(&mut client, &mut received);
    std::net::TcpStream::connect(address).unwrap_err();
}
