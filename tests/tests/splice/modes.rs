//! Services in all three modes on one interface, and a flood against all of it.

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use levee_tests::{
    flood::{FloodKind, FloodSpec},
    pattern::both_ways,
    sockets::{Server, assert_echo, echo},
    splice_lab::{BACKEND, SERVICE, SpliceOptions, with_port},
};

use crate::common::{BACKEND_PORT, Stage, addresses, assert_banner, backends, banner, services};

const HOST_PORT: u16 = 7100;
const PROXY_PORT: u16 = 7200;

/// The service in splice mode, and one of each other mode for both families.
fn all_modes() -> String {
    let host = with_port(SERVICE, HOST_PORT)
        .map(|address| format!("[[service]]\naddress = \"{address}\"\n"));
    let pairs = with_port(SERVICE, PROXY_PORT)
        .into_iter()
        .zip(with_port(BACKEND, BACKEND_PORT));
    let proxy = pairs.map(|(address, backend)| {
        format!(
            "[[service]]\naddress = \"{address}\"\nmode = \"proxy\"\n\
             [[service.backend]]\naddress = \"{backend}\"\n"
        )
    });
    host.into_iter().chain(proxy).collect::<String>() + &services("")
}

fn stage() -> (Stage, Vec<Server>) {
    let stage = Stage::with(SpliceOptions::default(), &all_modes());
    let mut servers = stage.serve(banner);
    for address in with_port(SERVICE, HOST_PORT) {
        servers.push(Server::start(&stage.lab.levee, address, banner));
    }
    (stage, servers)
}

fn everything() -> impl Iterator<Item = SocketAddr> {
    let others = [HOST_PORT, PROXY_PORT].map(|port| with_port(SERVICE, port));
    addresses().into_iter().chain(others.into_iter().flatten())
}

#[test]
fn three_modes_on_one_interface() {
    let (stage, _servers) = stage();
    let clients: Vec<_> = everything().map(|address| stage.connect(address)).collect();
    for client in &clients {
        assert_banner(client);
        assert_echo(client, "each by its own mode");
    }
}

fn flood(target: SocketAddr) -> FloodSpec {
    FloodSpec {
        target,
        kind: FloodKind::Syn,
        rate: Some(50_000),
        seed: 1,
        count_max: u64::MAX,
        duration_max: Duration::from_secs(30),
    }
}

#[test]
fn clients_of_all_modes_get_through_a_flood() {
    let (stage, _servers) = stage();
    for target in addresses() {
        let flood = stage.lab.flood(flood(target)).unwrap();
        for round in 0..10 {
            for address in everything() {
                let client = stage.connect(address);
                assert_banner(&client);
                assert_echo(&client, &format!("round {round}"));
            }
        }
        let sent = flood.stop().unwrap();
        println!("{target}: {sent:?}");
        assert!(sent.frames > 0);
    }
}

#[test]
fn a_transfer_goes_on_under_a_flood() {
    let stage = Stage::plain();
    for (family, address) in addresses().into_iter().enumerate() {
        let flood = stage.lab.flood(flood(address)).unwrap();
        let (client, server) = stage.pair(family);
        both_ways(&client, &server, 40);
        flood.stop().unwrap();
    }
}

/// A flood of ACKs with random numbers opens nothing.
#[test]
fn a_flood_of_acks_opens_no_connection() {
    let stage = Stage::plain();
    let _servers = stage.serve(echo);
    let [address, _] = addresses();
    let spec = FloodSpec {
        kind: FloodKind::Ack,
        rate: Some(20_000),
        count_max: 20_000,
        ..flood(address)
    };
    stage.lab.flood(spec).unwrap().join().unwrap();
    assert_eq!(stage.metric("levee_handshakes_total", &[]), 0);
    assert!(stage.dropped("cookie_invalid") > 19_000);
}

/// Nothing but levee's own knowledge of the way is needed: the kernel between client and backend
/// may refuse to route.
#[test]
fn the_kernels_routing_is_not_used() {
    let stage = Stage::plain();
    let _servers = stage.serve(echo);
    let clients = addresses().map(|address| stage.connect(address));
    for client in &clients {
        assert_echo(client, "before");
    }
    stage.lab.levee.sysctl("net.ipv4.ip_forward", "0").unwrap();
    for client in &clients {
        assert_echo(client, "after");
    }
    let unrouted = stage.lab.client.run(|| {
        let [address, _] = backends();
        Ok(TcpStream::connect_timeout(
            &address,
            Duration::from_millis(300),
        )?)
    });
    assert!(unrouted.is_err(), "the kernel routes no more");
}
