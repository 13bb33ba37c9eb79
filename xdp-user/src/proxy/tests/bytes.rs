//! Bytes arrive as they were sent, and FINs behind them.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener},
    thread,
};

use tokio::runtime::Builder;

use super::support::*;
use crate::{
    config::ProxyGlobals,
    engine::reason::CloseReason,
    proxy::{
        connect::{self, Started},
        info::Filter,
    },
};

#[test]
fn an_echo_comes_back() {
    let lab = Lab::new(options(&[echo_server()]));
    let mut client = lab.connect();
    client.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
    fin(&client);
    assert_eq!(read_all(&mut client), b"");
    lab.ends(CloseReason::Finished, 1);
    let stats = &lab.service().stats;
    assert_eq!([stats.bytes[0].get(), stats.bytes[1].get()], [5, 5]);
    assert_eq!(stats.accepted.get(), 1);
}

#[test]
fn after_the_clients_fin_the_backend_goes_on() {
    let (backend, served) = backend(|mut stream| {
        let request = read_all(&mut stream);
        stream.write_all(&pattern(2, 300_000)).unwrap();
        request
    });
    let lab = Lab::new(options(&[backend]));
    let mut client = lab.connect();
    client.write_all(&pattern(1, 300_000)).unwrap();
    fin(&client);
    assert!(read_all(&mut client) == pattern(2, 300_000));
    assert!(served.join().unwrap() == pattern(1, 300_000));
    lab.ends(CloseReason::Finished, 1);
}

#[test]
fn after_the_backends_fin_the_client_goes_on() {
    let (backend, served) = backend(|mut stream| {
        stream.write_all(&pattern(2, 300_000)).unwrap();
        fin(&stream);
        read_all(&mut stream)
    });
    let lab = Lab::new(options(&[backend]));
    let mut client = lab.connect();
    assert!(read_all(&mut client) == pattern(2, 300_000));
    client.write_all(&pattern(1, 300_000)).unwrap();
    fin(&client);
    assert!(served.join().unwrap() == pattern(1, 300_000));
    lab.ends(CloseReason::Finished, 1);
}

#[test]
fn a_backend_is_connected_without_bytes_of_the_client() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let runtime = Builder::new_current_thread().enable_io().build().unwrap();
    let _entered = runtime.enter();
    let started = connect::start(address, &options(&[address]), address, 0).unwrap();
    let (Started::Connected(leg) | Started::InProgress(leg)) = started;
    // On loopback this is the end of the handshake; the kernel alone would take its time.
    leg.acknowledge();
    listener.accept().unwrap();
}

/// Sends `len` bytes and gets them back; checks every one.
fn exchange(lab: &Lab, seed: u64, len: usize) {
    let client = lab.connect();
    let mut sender = client.try_clone().unwrap();
    let sent = thread::spawn(move || {
        sender.write_all(&pattern(seed, len)).unwrap();
        fin(&sender);
    });
    let mut client = client;
    let echoed = read_all(&mut client);
    sent.join().unwrap();
    assert_eq!(echoed.len(), len);
    assert!(
        echoed == pattern(seed, len),
        "{len} bytes came back changed"
    );
}

#[test]
fn any_number_of_bytes_comes_back_unchanged() {
    let lab = Lab::new(options(&[echo_server()]));
    let mut connections = 0;
    for around in [
        1,
        16 << 10,
        32 << 10,
        64 << 10,
        128 << 10,
        256 << 10,
        1 << 20,
    ] {
        for len in [around - 1, around, around + 1] {
            exchange(&lab, connections, len);
            connections += 1;
        }
    }
    lab.ends(CloseReason::Finished, connections);
}

#[test]
fn bulk_comes_back_unchanged_and_goes_through_pipes() {
    let lab = Lab::new(options(&[echo_server()]));
    exchange(&lab, 1, 64 << 20);
    lab.ends(CloseReason::Finished, 1);
    let workers = lab.proxy.workers();
    let idle: u64 = workers.iter().map(|worker| worker.pipes_idle.get()).sum();
    assert!(idle > 0, "no pipe was used");
}

#[test]
fn without_pipes_bulk_is_copied() {
    let globals = ProxyGlobals {
        workers: Some(1),
        pipes_max: 0,
        ..Default::default()
    };
    let lab = Lab::with(&globals, options(&[echo_server()]));
    exchange(&lab, 1, 16 << 20);
    lab.ends(CloseReason::Finished, 1);
    assert_eq!(lab.proxy.workers()[0].pipes_idle.get(), 0);
}

#[test]
fn many_at_once_do_not_mix() {
    let lab = Lab::new(options(&[echo_server()]));
    thread::scope(|scope| {
        for seed in 0..32 {
            let lab = &lab;
            scope.spawn(move || exchange(lab, seed, 1_000_000 + seed as usize));
        }
    });
    lab.ends(CloseReason::Finished, 32);
}

#[test]
fn what_was_in_the_pipe_of_a_killed_connection_reaches_nobody() {
    let lab = Lab::new(options(&[echo_server()]));
    for round in 0..10 {
        let mut stuck = Vec::new();
        for _ in 0..8 {
            // Nothing is read back, so everything fills up to the client again.
            let client = lab.connect();
            client.set_nonblocking(true).unwrap();
            stuck.push(client);
        }
        let bytes = vec![0xAA; 1 << 20];
        until(|| {
            for client in &mut stuck {
                while client.write(&bytes).is_ok() {}
            }
            let workers = lab.proxy.workers();
            let in_use = workers.iter().map(|worker| worker.pipes_in_use.get());
            in_use.sum::<u64>() >= 8
        });
        let killed = on_control(lab.proxy.kill(&Filter::default())).unwrap();
        assert_eq!(killed, 8);
        until(|| lab.proxy.connections() == 0);
        exchange(&lab, round, 1 << 20);
    }
    lab.nothing_left();
    let workers = lab.proxy.workers();
    let discarded: u64 = workers.iter().map(|w| w.pipes_discarded.get()).sum();
    assert!(discarded > 0, "no pipe had anything in it");
}
