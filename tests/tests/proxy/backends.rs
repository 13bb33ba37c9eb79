//! Which backend a client gets, and what happens when there is none.

use std::{
    collections::BTreeMap,
    io::Read as _,
    net::{IpAddr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use levee_tests::{
    proxy_lab::{CLIENT, INSIDE, more_clients},
    sockets::{Server, assert_echo, connect, eventually, reset},
};

use crate::common::{
    Stage, address, assert_reset, assert_turned_away, backend, backends, connect_from, number,
    numbered, service,
};

fn servers(stage: &Stage, addresses: &[SocketAddr]) -> Vec<Server> {
    let servers = addresses.iter().zip(0..);
    servers
        .map(|(&address, number)| numbered(&stage.lab.backend, address, number))
        .collect()
}

fn client(stage: &Stage) -> TcpStream {
    connect(&stage.lab.client, address())
}

fn turned_away(stage: &Stage) {
    assert_turned_away(&stage.lab.client, CLIENT[0], address());
}

/// How many connections each server got.
fn counted<'c>(clients: impl IntoIterator<Item = &'c TcpStream>) -> BTreeMap<u8, usize> {
    let mut counts = BTreeMap::new();
    for client in clients {
        *counts.entry(number(client)).or_default() += 1;
    }
    counts
}

/// One worker, so that turns are taken by all connections together.
fn one_worker(services: &str) -> Stage {
    Stage::new(&format!("[proxy]\nworkers = 1\n{services}"))
}

#[test]
fn round_robin_takes_turns() {
    let stage = one_worker(&service(address(), "", &backends(3)));
    let _servers = servers(&stage, &backends(3));
    let clients: Vec<_> = (0..30).map(|_| client(&stage)).collect();
    assert_eq!(
        counted(&clients),
        BTreeMap::from([(0, 10), (1, 10), (2, 10)])
    );
    drop(clients);
    stage.assert_nothing_left();
}

#[test]
fn weights_are_shares_and_0_is_none() {
    let weighted = backends(3)
        .into_iter()
        .zip([3, 1, 0])
        .map(|(address, weight)| {
            format!("[[service.backend]]\naddress = \"{address}\"\nweight = {weight}\n")
        });
    let services = service(address(), "", &[]) + &weighted.collect::<String>();
    let stage = one_worker(&services);
    let _servers = servers(&stage, &backends(3));
    let clients: Vec<_> = (0..40).map(|_| client(&stage)).collect();
    assert_eq!(counted(&clients), BTreeMap::from([(0, 30), (1, 10)]));
}

#[test]
fn the_backend_with_the_fewest_connections_is_next() {
    let settings = "balance = \"least_connections\"";
    let stage = Stage::new(&service(address(), settings, &backends(3)));
    let _servers = servers(&stage, &backends(3));
    let mut clients: Vec<_> = (0..9)
        .map(|_| {
            let client = client(&stage);
            (number(&client), client)
        })
        .collect();
    clients.retain(|(number, _)| *number != 1);
    assert_eq!(clients.len(), 6, "three connections each");
    eventually("the closed ones are gone", || {
        stage.metric("levee_backend_connections", &[]) == 6
    });
    let more: Vec<_> = (0..3).map(|_| client(&stage)).collect();
    assert_eq!(counted(&more), BTreeMap::from([(1, 3)]));
}

#[test]
fn a_client_stays_with_its_backend() {
    let settings = "balance = \"client_hash\"";
    let stage = Stage::new(&service(address(), settings, &backends(4)));
    let _servers = servers(&stage, &backends(4));
    let mut seen = BTreeMap::<u8, usize>::new();
    for source in more_clients() {
        let mut numbers =
            (0..3).map(|_| number(&connect_from(&stage.lab.client, source.into(), address())));
        let first = numbers.next().unwrap();
        assert!(numbers.all(|number| number == first), "{source} moved");
        *seen.entry(first).or_default() += 1;
    }
    println!("clients by backend: {seen:?}");
    assert!(seen.len() >= 3, "{seen:?}");
}

#[test]
fn a_backend_gets_no_more_than_its_bound() {
    let bounded = backends(2).into_iter().map(|address| {
        format!("[[service.backend]]\naddress = \"{address}\"\nconnections_max = 2\n")
    });
    let services = service(address(), "", &[]) + &bounded.collect::<String>();
    let stage = Stage::new(&services);
    let _servers = servers(&stage, &backends(2));
    let clients: Vec<_> = (0..4).map(|_| client(&stage)).collect();
    assert_eq!(counted(&clients), BTreeMap::from([(0, 2), (1, 2)]));
    turned_away(&stage);
    assert_eq!(stage.closed("no_backend"), 1);
    drop(clients);
    stage.assert_nothing_left();
    number(&client(&stage));
}

#[test]
fn nobody_listening_is_a_reset() {
    let stage = Stage::simple("retries = 0");
    turned_away(&stage);
    stage.assert_nothing_left();
    assert_eq!(stage.closed("connect_refused"), 1);
    let refused = [("reason", "refused")];
    assert_eq!(stage.metric("levee_backend_failures_total", &refused), 1);
}

#[test]
fn another_backend_is_tried() {
    const CLIENTS: usize = 12;
    let stage = Stage::new(&service(address(), "", &backends(2)));
    let _server = numbered(&stage.lab.backend, backends(2)[1], 1);
    let clients: Vec<_> = (0..CLIENTS).map(|_| client(&stage)).collect();
    assert_eq!(counted(&clients), BTreeMap::from([(1, CLIENTS)]));
    let retries = stage.metric("levee_backend_retries_total", &[]);
    println!("{retries} retries for {CLIENTS} clients");
    assert!(retries > 0);
    for client in &clients {
        assert_echo(client, "hello");
    }
}

/// An address in the backend's network that swallows what is sent to it.
fn blackhole(stage: &Stage) -> SocketAddr {
    let address: IpAddr = [10, 78, 2, 99].into();
    let neighbour =
        format!("ip neigh replace {address} lladdr 02:00:00:00:78:12 dev {INSIDE} nud permanent");
    stage.lab.proxy.tool(&neighbour).unwrap();
    let route = format!("ip route add blackhole {address}/32");
    stage.lab.backend.tool(&route).unwrap();
    SocketAddr::new(address, backend().port())
}

#[test]
fn a_blackholed_backend_times_out() {
    let hole: SocketAddr = ([10, 78, 2, 99], backend().port()).into();
    let settings = "connect_timeout = \"500ms\"\nretries = 1";
    let stage = Stage::new(&service(address(), settings, &[hole]));
    assert_eq!(blackhole(&stage), hole);
    let start = Instant::now();
    turned_away(&stage);
    println!("given up after {:?}", start.elapsed());
    assert!(start.elapsed() >= Duration::from_millis(500));
    stage.assert_nothing_left();
    assert_eq!(stage.closed("connect_timeout"), 1);
}

#[test]
fn a_blackholed_backend_is_passed_over() {
    let hole: SocketAddr = ([10, 78, 2, 99], backend().port()).into();
    let settings = "connect_timeout = \"300ms\"";
    let stage = one_worker(&service(address(), settings, &[hole, backend()]));
    blackhole(&stage);
    let _server = numbered(&stage.lab.backend, backend(), 1);
    let clients: Vec<_> = (0..4).map(|_| client(&stage)).collect();
    assert_eq!(counted(&clients), BTreeMap::from([(1, 4)]));
    assert!(stage.metric("levee_backend_retries_total", &[]) > 0);
}

#[test]
fn a_backend_that_resets_in_the_middle() {
    let stage = Stage::simple("");
    let listener = stage.listen();
    for _ in 0..20 {
        let (mut client, mut server) = stage.pair(&listener);
        std::io::Write::write_all(&mut server, &[7; 10_000]).unwrap();
        client.read_exact(&mut [0; 10_000]).unwrap();
        reset(server);
        assert_reset(&client);
    }
    stage.assert_nothing_left();
    assert_eq!(stage.closed("backend_reset"), 20);
}

/// As many connects in progress as there may be.
fn full_queue(speak: bool) -> (Stage, Vec<TcpStream>) {
    let hole: SocketAddr = ([10, 78, 2, 99], backend().port()).into();
    let settings = "connect_timeout = \"1m\"\nretries = 0\nhalf_open_max = 4";
    let stage = one_worker(&service(address(), settings, &[hole]));
    blackhole(&stage);
    let clients = (1..=4).map(|depth| {
        let mut waiting = client(&stage);
        if speak {
            std::io::Write::write_all(&mut waiting, b"hello").unwrap();
        }
        eventually("it waits for the backend", || {
            stage.metric("levee_half_open_connections", &[("leg", "backend")]) == depth
        });
        waiting
    });
    let clients = clients.collect();
    (stage, clients)
}

#[test]
fn the_oldest_silent_client_makes_room() {
    let (stage, clients) = full_queue(false);
    let newcomer = client(&stage);
    assert_reset(&clients[0]);
    assert_eq!(stage.metric("levee_half_open_evicted_total", &[]), 1);
    for waiting in clients[1..].iter().chain([&newcomer]) {
        waiting.set_nonblocking(true).unwrap();
        let waits = waiting.peek(&mut [0]).unwrap_err();
        assert_eq!(waits.kind(), std::io::ErrorKind::WouldBlock);
    }
}

#[test]
fn clients_that_have_spoken_are_not_pushed_out() {
    let (stage, clients) = full_queue(true);
    turned_away(&stage);
    assert_eq!(stage.refused("half_open_full"), 1);
    assert_eq!(stage.metric("levee_half_open_evicted_total", &[]), 0);
    for waiting in &clients {
        waiting.set_nonblocking(true).unwrap();
        let waits = waiting.peek(&mut [0]).unwrap_err();
        assert_eq!(waits.kind(), std::io::ErrorKind::WouldBlock);
    }
}
