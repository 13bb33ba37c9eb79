//! Bounds refuse with a reason, and whoever keeps to them does not notice.

use std::net::{IpAddr, TcpStream};

use levee_tests::{
    proxy_lab::{CLIENT, PROXY, more_clients, with_port},
    sockets::{Server, assert_echo, connect, echo, eventually},
};

use crate::common::{PORT, Stage, address, assert_turned_away, backend, connect_from, service};

fn stage(settings: &str) -> (Stage, Server) {
    let stage = Stage::simple(settings);
    let server = Server::start(&stage.lab.backend, backend(), echo);
    (stage, server)
}

fn client(stage: &Stage, source: IpAddr) -> TcpStream {
    connect_from(&stage.lab.client, source, address())
}

fn others() -> Vec<IpAddr> {
    more_clients().map(IpAddr::V4).collect()
}

#[test]
fn connections_of_one_client() {
    let (stage, _server) = stage("connections_per_client_max = 3");
    let mut held: Vec<_> = (0..3).map(|_| client(&stage, CLIENT[0])).collect();
    for client in &held {
        assert_echo(client, "within the bound");
    }
    assert_turned_away(&stage.lab.client, CLIENT[0], address());
    assert_eq!(stage.refused("client_connections"), 1);
    assert_echo(&client(&stage, others()[0]), "somebody else");
    held.pop();
    eventually("the place is free", || {
        stage.metric("levee_connections", &[("leg", "client")]) <= 2
    });
    assert_echo(&client(&stage, CLIENT[0]), "in the place of another");
    drop(held);
    stage.assert_nothing_left();
}

#[test]
fn connections_of_one_prefix() {
    let (stage, _server) = stage("connections_per_prefix_max = 5");
    let held: Vec<_> = others()[..5]
        .iter()
        .map(|&source| client(&stage, source))
        .collect();
    for client in &held {
        assert_echo(client, "within the bound");
    }
    assert_turned_away(&stage.lab.client, others()[6], address());
    assert_eq!(stage.refused("prefix_connections"), 1);
}

#[test]
fn connections_of_a_service() {
    let limited = service(address(), "connections_max = 2", &[backend()]);
    let other = with_port(PROXY, PORT + 1)[0];
    let stage = Stage::new(&(limited + &service(other, "", &[backend()])));
    let _server = Server::start(&stage.lab.backend, backend(), echo);
    let held = [0, 1].map(|_| client(&stage, CLIENT[0]));
    for client in &held {
        assert_echo(client, "within the bound");
    }
    assert_turned_away(&stage.lab.client, others()[0], address());
    assert_eq!(stage.refused("service_connections"), 1);
    assert_echo(&connect(&stage.lab.client, other), "the other service");
}

#[test]
fn connections_in_all() {
    let pairs = [(PORT, ""), (PORT + 1, "")];
    let services =
        pairs.map(|(port, settings)| service(with_port(PROXY, port)[0], settings, &[backend()]));
    let stage = Stage::new(&format!(
        "[proxy]\nconnections_max = 4\n{}",
        services.concat()
    ));
    let _server = Server::start(&stage.lab.backend, backend(), echo);
    let held: Vec<_> = (0..4)
        .map(|number| connect(&stage.lab.client, with_port(PROXY, PORT + number % 2)[0]))
        .collect();
    for client in &held {
        assert_echo(client, "within the bound");
    }
    assert_turned_away(&stage.lab.client, CLIENT[0], address());
    assert_eq!(stage.refused("total_connections"), 1);
    drop(held);
    stage.assert_nothing_left();
    assert_echo(&client(&stage, CLIENT[0]), "in the place of another");
}

#[test]
fn new_connections_of_one_client() {
    let settings = "new_connections_per_client = \"1/m\"\nnew_connections_burst = 2";
    let (stage, _server) = stage(settings);
    for _ in 0..2 {
        assert_echo(&client(&stage, CLIENT[0]), "within the burst");
    }
    assert_turned_away(&stage.lab.client, CLIENT[0], address());
    assert_eq!(stage.refused("client_rate"), 1);
    assert_echo(&client(&stage, others()[0]), "somebody else");
    stage.assert_nothing_left();
}
