//! Every kind of client and server gets through, in every layout.

use std::io::Write as _;

use levee_tests::{
    iperf::{ServerAt, Transfer},
    netns::Netns,
    server::Nginx,
    sockets::{assert_echo, connect, echo, read_all},
    splice_lab::{Arms, CLIENT, POOL, SpliceOptions},
    vlan::{QINQ, Tags, VLAN},
};

use crate::common::{Stage, addresses, assert_banner, backends, banner, service, services, who};

/// The pools of both services.
fn full_nat() -> String {
    let services = addresses().into_iter().zip(backends()).enumerate();
    services
        .map(|(family, (address, backend))| {
            let pool = POOL.map(|pair| format!("\"{}\"", pair[family])).join(", ");
            let settings = format!("nat = \"full\"\nnat_pool = [{pool}]");
            service(address, &settings, &[backend])
        })
        .collect()
}

/// A server that speaks first, and whom the server sees.
fn serves(stage: &Stage) {
    let servers = stage.serve(banner);
    for address in addresses() {
        let client = stage.connect(address);
        assert_banner(&client);
        assert_echo(&client, "through levee");
    }
    drop(servers);
    stage.assert_nothing_left();
}

#[test]
fn two_arms() {
    serves(&Stage::plain());
}

#[test]
fn one_arm() {
    let options = SpliceOptions {
        arms: Arms::One,
        ..SpliceOptions::default()
    };
    serves(&Stage::with(options, &services("")));
}

fn behind_tags(tags: &Tags) {
    let options = SpliceOptions {
        tags: tags.to_vec(),
        ..SpliceOptions::default()
    };
    serves(&Stage::with(options, &services("")));
}

#[test]
fn clients_in_a_vlan() {
    behind_tags(&VLAN);
}

#[test]
fn clients_behind_two_tags() {
    behind_tags(&QINQ);
}

#[test]
fn the_backend_sees_the_client() {
    let stage = Stage::plain();
    let _servers = stage.serve(who);
    for address in addresses() {
        let client = stage.connect(address);
        let seen = String::from_utf8(read_all(&client)).unwrap();
        assert_eq!(seen, client.local_addr().unwrap().to_string());
    }
}

#[test]
fn or_an_address_of_the_pool_without_a_way_back() {
    for arms in [Arms::Two, Arms::One] {
        let options = SpliceOptions {
            arms,
            returns: false,
            ..SpliceOptions::default()
        };
        let stage = Stage::with(options, &full_nat());
        let _servers = stage.serve(who);
        for (family, address) in addresses().into_iter().enumerate() {
            let client = stage.connect(address);
            let seen = String::from_utf8(read_all(&client)).unwrap();
            let seen: std::net::SocketAddr = seen.parse().unwrap();
            let pool = POOL.map(|pair| pair[family]);
            assert!(pool.contains(&seen.ip()), "{seen}");
            assert_eq!(client.local_addr().unwrap().ip(), CLIENT[family]);
        }
    }
}

fn curl(netns: &Netns, address: std::net::SocketAddr, arguments: &str) -> String {
    let line =
        format!("curl --silent --show-error --fail --max-time 20 {arguments} http://{address}/");
    netns.tool(&line).unwrap()
}

#[test]
fn curl_gets_pages_and_keeps_its_connection() {
    let mut stage = Stage::plain();
    stage.leave_listening();
    let _server = Nginx::start(&stage.lab.backend, &backends()).unwrap();
    for address in addresses() {
        assert_eq!(curl(&stage.lab.client, address, ""), "levee lab\n");
        // A second URL on the same connection.
        let both = curl(&stage.lab.client, address, &format!("http://{address}/"));
        assert_eq!(both, "levee lab\nlevee lab\n");
    }
}

#[test]
fn twenty_four_streams_each_way() {
    let mut stage = Stage::plain();
    stage.leave_listening();
    for (address, backend) in addresses().into_iter().zip(backends()) {
        let server = ServerAt {
            netns: &stage.lab.backend,
            address: backend,
        };
        for reverse in [false, true] {
            let transfer = Transfer {
                streams: 24,
                seconds: 2,
                reverse,
            };
            let done = transfer.run(server, &stage.lab.client, address).unwrap();
            println!("{address}, reverse {reverse}: {done:?}");
            assert!(done.bytes > 1_000_000, "{done:?}");
        }
    }
}

#[test]
fn other_traffic_of_backends_passes() {
    let stage = Stage::plain();
    let _servers = stage.serve(echo);
    for backend in backends() {
        assert_echo(&connect(&stage.lab.client, backend), "past levee");
        let ping = format!("ping -c 1 -W 5 {}", backend.ip());
        stage.lab.client.tool(&ping).unwrap();
    }
}

#[test]
fn data_behind_the_handshake_arrives() {
    const CONNECTIONS: usize = 50;
    let stage = Stage::plain();
    let _servers = stage.serve(echo);
    for address in addresses() {
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let mut client = stage.connect(address);
                client.write_all(&[b'x'; 4000]).unwrap();
                client.shutdown(std::net::Shutdown::Write).unwrap();
                client
            })
            .collect();
        for client in clients {
            assert_eq!(read_all(&client), [b'x'; 4000]);
        }
    }
}
