//! Backends learn who the client is, and upstreams tell levee, by the PROXY protocol: with real
//! nginx and HAProxy on the other side.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use levee_tests::{
    netns::Netns,
    proxy_lab::{BACKEND, CLIENT, PROXY, with_port},
    relay::Relay,
    sockets::connect,
};

use crate::common::{
    BACKEND_PORT, PORT, Stage, address, assert_reset, assert_turned_away, backend, connect_from,
    service,
};

/// Where an upstream of levee listens, beside the clients.
const UPSTREAM_PORT: u16 = 7500;

/// nginx that answers with who its client is, and which address that connected to, by its PROXY
/// header.
fn nginx(netns: &Netns, address: SocketAddr) -> Relay {
    let configuration = format!(
        "events {{}}\nhttp {{ access_log off; server {{ listen {address} proxy_protocol;\n\
         return 200 \"$proxy_protocol_addr $proxy_protocol_port \
         $proxy_protocol_server_addr $proxy_protocol_server_port\"; }} }}\n"
    );
    Relay::nginx(netns, None, &configuration, address).unwrap()
}

/// HAProxy that does the same.
fn haproxy(netns: &Netns, address: SocketAddr) -> Relay {
    let configuration = format!(
        "defaults\n  mode http\n  timeout client 20s\n  timeout connect 5s\n  timeout server 5s\n\
         frontend f\n  bind {address} accept-proxy\n  http-request return status 200 \
         content-type text/plain lf-string \"%[src] %[src_port] %[dst] %[dst_port]\"\n"
    );
    Relay::haproxy(netns, None, &configuration, address).unwrap()
}

/// What such a server says to this client.
fn told(mut client: &TcpStream) -> String {
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: levee\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    body.to_owned()
}

/// What it should say.
fn truth(client: SocketAddr, service: SocketAddr) -> String {
    let (from, to) = (client.ip(), service.ip());
    format!("{from} {} {to} {}", client.port(), service.port())
}

fn told_by(server: impl Fn(&Netns, SocketAddr) -> Relay, version: &str) {
    let addresses = with_port(PROXY, PORT);
    let backends = with_port(BACKEND, BACKEND_PORT);
    let settings = format!("send_proxy = \"{version}\"");
    let services = addresses.iter().zip(backends);
    let services: String = services
        .map(|(&address, backend)| service(address, &settings, &[backend]))
        .collect();
    let stage = Stage::new(&services);
    let _servers = backends.map(|backend| server(&stage.lab.backend, backend));
    for address in addresses {
        let client = connect(&stage.lab.client, address);
        let own = client.local_addr().unwrap();
        assert_eq!(told(&client), truth(own, address), "{version}");
    }
    stage.assert_nothing_left();
}

#[test]
fn version_1_to_nginx() {
    told_by(nginx, "v1");
}

#[test]
fn version_2_to_nginx() {
    told_by(nginx, "v2");
}

#[test]
fn version_1_to_haproxy() {
    told_by(haproxy, "v1");
}

#[test]
fn version_2_to_haproxy() {
    told_by(haproxy, "v2");
}

/// An IPv4 client of an IPv6 backend: the header tells of the client's connection, not of levee's.
#[test]
fn families_may_differ() {
    let backend = with_port(BACKEND, BACKEND_PORT)[1];
    for version in ["v1", "v2"] {
        let settings = format!("send_proxy = \"{version}\"");
        let stage = Stage::new(&service(address(), &settings, &[backend]));
        let _server = nginx(&stage.lab.backend, backend);
        let client = connect(&stage.lab.client, address());
        let own = client.local_addr().unwrap();
        assert_eq!(told(&client), truth(own, address()), "{version}");
    }
}

/// client -> HAProxy -> levee -> nginx: whom HAProxy names as its client reaches nginx, with the
/// service's address as the one connected to.
fn told_through(upstream_version: &str) {
    let settings = "accept_proxy = [\"10.78.1.2/32\"]\nsend_proxy = \"v2\"";
    let stage = Stage::new(&service(address(), settings, &[backend()]));
    let _server = nginx(&stage.lab.backend, backend());
    let upstream = SocketAddr::new(CLIENT[0], UPSTREAM_PORT);
    let configuration = format!(
        "defaults\n  mode tcp\n  timeout client 20s\n  timeout connect 5s\n  timeout server 20s\n\
         listen l\n  bind {upstream}\n  server levee {} {upstream_version}\n",
        address()
    );
    let _haproxy = Relay::haproxy(&stage.lab.client, None, &configuration, upstream).unwrap();
    let source: IpAddr = [10, 78, 1, 103].into();
    let client = connect_from(&stage.lab.client, source, upstream);
    let own = client.local_addr().unwrap();
    assert_eq!(told(&client), truth(own, address()));
    drop(client);
    stage.assert_nothing_left();
}

#[test]
fn version_1_from_haproxy() {
    told_through("send-proxy");
}

#[test]
fn version_2_from_haproxy() {
    told_through("send-proxy-v2");
}

#[test]
fn nobody_else_is_believed() {
    let settings = "accept_proxy = [\"192.0.2.0/24\"]";
    let stage = Stage::new(&service(address(), settings, &[backend()]));
    let listener = stage.listen();
    // Refused before it has said anything.
    assert_turned_away(&stage.lab.client, CLIENT[0], address());
    assert_eq!(stage.refused("untrusted_header"), 1);
    drop(listener);
    stage.assert_nothing_left();
}

/// Where the list is no condition, a header of somebody else is data for the backend.
#[test]
fn a_strangers_header_is_data() {
    const LINE: &[u8] = b"PROXY TCP4 198.51.100.1 198.51.100.2 1 2\r\n";
    let settings = "accept_proxy = [\"192.0.2.0/24\"]\naccept_proxy_required = false";
    let stage = Stage::new(&service(address(), settings, &[backend()]));
    let (mut client, mut server) = stage.pair(&stage.listen());
    client.write_all(LINE).unwrap();
    let mut got = [0; LINE.len()];
    server.read_exact(&mut got).unwrap();
    assert_eq!(got, LINE);
}

fn trusting(settings: &str) -> Stage {
    let settings = format!("accept_proxy = [\"10.78.1.0/24\"]\n{settings}");
    Stage::new(&service(address(), &settings, &[backend()]))
}

/// A header that comes byte by byte, with data right behind it.
#[test]
fn a_header_in_pieces() {
    let stage = trusting("");
    let listener = stage.listen();
    let mut client = connect(&stage.lab.client, address());
    client.set_nodelay(true).unwrap();
    for byte in b"PROXY TCP4 198.51.100.1 198.51.100.2 1 2\r\nhello" {
        client.write_all(&[*byte]).unwrap();
        thread::sleep(Duration::from_millis(2));
    }
    let mut server = levee_tests::sockets::accept(&listener);
    let mut got = [0; 5];
    server.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello");
    drop((client, server));
    stage.assert_nothing_left();
}

#[test]
fn what_is_no_header_ends_the_connection() {
    let stage = trusting("");
    let mut client = connect(&stage.lab.client, address());
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_reset(&client);
    stage.assert_nothing_left();
    assert_eq!(stage.closed("header_invalid"), 1);
}

#[test]
fn a_header_that_does_not_come_ends_the_connection() {
    let stage = trusting("header_timeout = \"300ms\"");
    let mut client = connect(&stage.lab.client, address());
    client.write_all(b"PROXY TC").unwrap();
    assert_reset(&client);
    stage.assert_nothing_left();
    assert_eq!(stage.closed("header_timeout"), 1);
}
