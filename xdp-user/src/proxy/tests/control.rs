//! What operators do: list, end, reload, stop.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use super::support::*;
use crate::{
    config::{Prefix, ProxyGlobals},
    engine::{reason::CloseReason, tcp::TcpState},
    proxy::{DrainReport, Proxy, info::Filter},
    secret::Secret,
    startup::Former,
};

/// A client whose connection is open on both sides.
fn talking(lab: &Lab) -> TcpStream {
    let mut client = lab.connect();
    talk(&mut client);
    client
}

fn talk(client: &mut TcpStream) {
    client.write_all(b"x").unwrap();
    let mut answer = [0];
    client.read_exact(&mut answer).unwrap();
}

#[test]
fn a_listing_shows_what_there_is() {
    let backend = echo_server();
    let lab = Lab::new(options(&[backend]));
    let client = talking(&lab);
    let _others = [talking(&lab), talking(&lab)];

    let all = on_control(lab.proxy.list(&Filter::default(), 2)).unwrap();
    assert_eq!((all.rows.len(), all.matched), (2, 3));
    let one = on_control(lab.proxy.list(&Filter::default(), 10)).unwrap();
    let local = client.local_addr().unwrap();
    let row = one.rows.iter().find(|row| row.client == local).unwrap();
    assert_eq!(row.service, "s");
    assert_eq!(row.backend.as_deref(), Some("b0"));
    assert_eq!(row.backend_address, Some(backend));
    assert_eq!(row.client_state, "ESTABLISHED");
    assert_eq!(row.backend_state, "ESTABLISHED");
    assert_eq!((row.bytes_from_client, row.bytes_from_backend), (1, 1));
    let hour = u64::from(options(&[]).timeouts.idle_ms);
    assert!(row.expires_in_ms.unwrap() <= hour);

    let filters = [
        (Some("s"), None, None, 3),
        (Some("t"), None, None, 0),
        (None, Some("b0"), None, 3),
        (None, Some("b1"), None, 0),
        (None, None, Some(TcpState::Established), 3),
        (None, None, Some(TcpState::CloseWait), 0),
    ];
    for (service, backend, state, matched) in filters {
        let filter = Filter {
            service: service.map(str::to_owned),
            backend: backend.map(str::to_owned),
            state,
            client: Prefix::new(local.ip(), 32),
            ..Filter::default()
        };
        let found = on_control(lab.proxy.list(&filter, 10)).unwrap();
        assert_eq!(found.matched, matched, "{filter:?}");
    }
}

#[test]
fn one_connection_is_ended_by_its_id() {
    let lab = Lab::new(options(&[echo_server()]));
    let mut victim = talking(&lab);
    let mut other = talking(&lab);
    let all = on_control(lab.proxy.list(&Filter::default(), 10)).unwrap();
    let local = victim.local_addr().unwrap();
    let row = all.rows.iter().find(|row| row.client == local).unwrap();
    let filter = Filter {
        id: row.id.parse().ok(),
        ..Filter::default()
    };
    assert_eq!(on_control(lab.proxy.kill(&filter)).unwrap(), 1);
    assert_eq!(read_to_rst(&mut victim), b"");
    assert_eq!(on_control(lab.proxy.kill(&filter)).unwrap(), 0);
    talk(&mut other);
    drop(other);
    until(|| lab.closed(CloseReason::Finished) == 1);
    assert_eq!(lab.closed(CloseReason::Killed), 1);
    lab.nothing_left();
}

#[test]
fn a_drain_lets_connections_end() {
    let lab = Lab::new(options(&[echo_server()]));
    let mut clients: Vec<_> = (0..8).map(|_| talking(&lab)).collect();
    let report = thread::scope(|scope| {
        let drain = scope.spawn(|| on_control(lab.proxy.drain(Instant::now() + PATIENCE)));
        until(|| TcpStream::connect(lab.address).is_err());
        for client in &mut clients {
            talk(client);
            fin(client);
            assert_eq!(read_all(client), b"");
        }
        drain.join().unwrap()
    });
    assert_eq!(report.reset, 0);
    assert!(report.ended >= 8);
    until(|| lab.closed(CloseReason::Finished) >= 8);
    lab.nothing_left();
}

#[test]
fn a_drain_resets_what_outlasts_it() {
    let lab = Lab::new(options(&[echo_server()]));
    let mut client = talking(&lab);
    let deadline = Instant::now() + Duration::from_millis(50);
    let report = on_control(lab.proxy.drain(deadline));
    assert_eq!(report, DrainReport { ended: 0, reset: 1 });
    assert_eq!(read_to_rst(&mut client), b"");
    lab.ends(CloseReason::DrainTimeout, 1);
}

#[test]
fn a_drain_can_be_cut_short_and_loses_nobody_who_waits_to_be_accepted() {
    let lab = Lab::new(options(&[echo_server()]));
    let mut clients: Vec<_> = (0..100).map(|_| lab.connect()).collect();
    on_control(async {
        let long = lab.proxy.drain(Instant::now() + PATIENCE);
        // Not even begun, so far: it has to be possible at any point.
        tokio::time::timeout(Duration::from_millis(20), long)
            .await
            .unwrap_err();
    });
    for client in &mut clients {
        talk(client);
    }
    let report = on_control(lab.proxy.drain(Instant::now()));
    assert_eq!(report.reset, 100);
    lab.ends(CloseReason::DrainTimeout, 100);
}

#[test]
fn a_reload_changes_what_new_clients_meet_and_nothing_else() {
    let (first, second) = (echo_server(), echo_server());
    let lab = Lab::new(options(&[first]));
    let mut old = talking(&lab);
    let added = address();
    let services = [
        service("s", lab.address, options(&[second])),
        service("t", added, options(&[first])),
    ];
    lab.proxy.commit(lab.proxy.stage(&services).unwrap());
    let mut new = talking(&lab);
    let mut other = TcpStream::connect(added).unwrap();
    talk(&mut other);
    talk(&mut old);
    talk(&mut new);
    let all = on_control(lab.proxy.list(&Filter::default(), 10)).unwrap();
    let backend_of = |client: &TcpStream| {
        let local = client.local_addr().unwrap();
        let row = all.rows.iter().find(|row| row.client == local);
        row.unwrap().backend_address.unwrap()
    };
    assert_eq!(backend_of(&old), first);
    assert_eq!(backend_of(&new), second);
    assert_eq!(backend_of(&other), first);
    // Counted together, before and after.
    assert_eq!(lab.service().stats.accepted.get(), 2);

    lab.proxy.commit(lab.proxy.stage(&services[1..]).unwrap());
    until(|| TcpStream::connect(lab.address).is_err());
    talk(&mut old);
    talk(&mut new);
    talk(&mut other);
}

#[test]
fn a_reload_that_fails_changes_nothing() {
    let lab = Lab::new(options(&[echo_server()]));
    let taken = echo_server();
    let services = [
        service("s", lab.address, options(&[address()])),
        service("t", taken, options(&[address()])),
    ];
    let error = lab.proxy.stage(&services).unwrap_err().to_string();
    let expected =
        format!("service t cannot listen at {taken}: another program listens there already");
    assert_eq!(error, expected);
    talking(&lab);
}

#[test]
fn an_address_of_another_machine_is_refused_with_the_reason() {
    let foreign = "192.0.2.1:80".parse().unwrap();
    let services = [service("s", foreign, options(&[address()]))];
    let globals = ProxyGlobals::default();
    let error = Proxy::start(&globals, &services, &Secret::new([0; 32]), Former::Dead).unwrap_err();
    let expected =
        "service s cannot listen at 192.0.2.1:80: that is not an address of this machine";
    assert_eq!(error.to_string(), expected);
}
