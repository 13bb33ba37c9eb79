//! Bounds, and what happens at them.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use super::support::*;
use crate::{
    config::{Limits, ProxyGlobals},
    engine::reason::{CloseReason, Refusal},
};

fn refused(lab: &Lab, reason: Refusal) -> u64 {
    lab.service().stats.refused[reason.index()].get()
}

/// As many as may be get in, the next is refused, and may come when one has left.
#[track_caller]
fn bounded(lab: &Lab, bound: usize, reason: Refusal) {
    let mut answer = [0];
    let mut inside: Vec<TcpStream> = Vec::new();
    for _ in 0..bound {
        let mut client = lab.connect();
        client.write_all(b"x").unwrap();
        client.read_exact(&mut answer).unwrap();
        inside.push(client);
    }
    read_until_error(&mut lab.connect(), &mut Vec::new());
    until(|| refused(lab, reason) == 1);
    assert_eq!(lab.service().stats.accepted.get(), bound as u64);
    inside.pop();
    until(|| lab.proxy.connections() == bound as u64 - 1);
    let mut client = lab.connect();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut answer).unwrap();
    drop((client, inside));
    lab.ends(CloseReason::Finished, bound as u64 + 1);
}

fn limited(limits: Limits) -> Lab {
    let mut options = options(&[echo_server()]);
    options.limits = limits;
    Lab::new(options)
}

#[test]
fn of_a_client() {
    let limits = Limits {
        per_client: 3,
        ..Limits::default()
    };
    bounded(&limited(limits), 3, Refusal::ClientConnections);
}

#[test]
fn of_a_prefix() {
    let limits = Limits {
        per_prefix: 3,
        per_client: 4,
        ..Limits::default()
    };
    bounded(&limited(limits), 3, Refusal::PrefixConnections);
}

#[test]
fn of_a_service() {
    let limits = Limits {
        service: 3,
        ..Limits::default()
    };
    bounded(&limited(limits), 3, Refusal::ServiceConnections);
}

#[test]
fn of_the_whole_proxy() {
    let globals = ProxyGlobals {
        workers: Some(2),
        connections_max: 3,
        ..ProxyGlobals::default()
    };
    let lab = Lab::with(&globals, options(&[echo_server()]));
    assert_eq!(lab.proxy.connections_max(), 3);
    bounded(&lab, 3, Refusal::TotalConnections);
}

#[test]
fn of_new_connections() {
    let lab = limited(Limits {
        rate_per_minute: 1,
        rate_burst: 2,
        ..Limits::default()
    });
    for _ in 0..2 {
        let mut client = lab.connect();
        client.write_all(b"x").unwrap();
        fin(&client);
        assert_eq!(read_all(&mut client), b"x");
    }
    read_until_error(&mut lab.connect(), &mut Vec::new());
    until(|| refused(&lab, Refusal::ClientRate) == 1);
    assert_eq!(lab.proxy.limit_entries().entries, 1);
}

#[test]
fn of_a_backend() {
    let mut options = options(&[echo_server(), echo_server()]);
    options.backends[0].connections_max = 1;
    options.backends[1].connections_max = 2;
    let lab = Lab::new(options);
    let mut inside: Vec<_> = (0..3).map(|_| lab.connect()).collect();
    let mut answer = [0];
    for client in &mut inside {
        client.write_all(b"x").unwrap();
        client.read_exact(&mut answer).unwrap();
    }
    read_until_error(&mut lab.connect(), &mut Vec::new());
    until(|| lab.closed(CloseReason::NoBackend) == 1);
}

#[test]
fn the_oldest_who_has_sent_nothing_makes_room_and_nobody_who_has() {
    let hole = BlackHole::new();
    let mut options = options(&[hole.address]);
    options.half_open_max = 2;
    let globals = ProxyGlobals {
        workers: Some(1),
        ..ProxyGlobals::default()
    };
    let lab = Lab::with(&globals, options);
    let half_open = |n| until(|| lab.service().stats.half_open.get() == n);

    let mut spoke = lab.connect();
    spoke.write_all(b"x").unwrap();
    half_open(1);
    let mut silent = lab.connect();
    half_open(2);
    // The newcomer takes the place of the silent one, though the other is older.
    let mut newcomer = lab.connect();
    assert_eq!(read_to_rst(&mut silent), b"");
    until(|| lab.closed(CloseReason::HalfOpenEvicted) == 1);
    assert_eq!(lab.service().stats.half_open.get(), 2);

    newcomer.write_all(b"x").unwrap();
    until(|| {
        // Whether the proxy has seen the byte shows in who is turned away.
        let mut client = lab.connect();
        read_until_error(&mut client, &mut Vec::new());
        refused(&lab, Refusal::HalfOpenFull) >= 1
    });
    drop((spoke, newcomer));
    until(|| lab.proxy.connections() <= 2);
}

#[test]
fn a_service_that_gets_another_name_takes_no_half_open_connection_along() {
    let hole = BlackHole::new();
    let lab = Lab::new(options(&[hole.address]));
    let service = lab.service();
    let client = lab.connect();
    until(|| service.stats.half_open.get() == 1);
    let renamed = [super::support::service(
        "t",
        lab.address,
        options(&[hole.address]),
    )];
    lab.proxy.commit(lab.proxy.stage(&renamed).unwrap());
    rst(client);
    until(|| lab.proxy.connections() == 0);
    assert_eq!(service.stats.half_open.get(), 0);
}
