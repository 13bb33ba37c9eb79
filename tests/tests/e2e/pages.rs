//! Pages come to real clients, over every kind of link; nothing else notices levee.

use std::{fs, net::SocketAddr};

use levee_tests::{
    levee::Levee,
    netns::Netns,
    server::Nginx,
    sockets::{LIMIT, Server, assert_echo, connect, echo},
    topology::{CLIENT_V4, CLIENT_V6, HOST_V4, INTERFACE, Lab, LabOptions, host_addresses},
    vlan::{QINQ, Tag, VLAN},
};
use socket2::{Domain, Socket, Type};

use crate::common::{Counted, PAGE, PLAIN_PORT, PORT, lab, passed, protect};

fn curl(netns: &Netns, address: SocketAddr) -> String {
    let limit = LIMIT.as_secs();
    let line = format!("curl --silent --show-error --fail --max-time {limit} http://{address}/");
    netns.tool(&line).unwrap()
}

fn curl_gets_the_page(tags: &[Tag]) {
    let mut lab = Lab::new(&LabOptions {
        tags: tags.to_vec(),
    })
    .unwrap();
    let levee = protect(&lab);
    lab.untag_first().unwrap();
    let _server = Nginx::start(&lab.host, &host_addresses(PORT)).unwrap();
    assert_eq!(
        Counted::read(&levee).sent,
        0,
        "nothing came from outside yet"
    );
    for address in host_addresses(PORT) {
        assert_eq!(curl(&lab.client, address), PAGE, "{address}");
    }
    let counted = Counted::read(&levee);
    println!("{tags:x?}: {counted:?}");
    counted.assert_admitted(2);
    assert!(counted.sent >= 2);
}

#[test]
fn over_ipv4_and_ipv6() {
    curl_gets_the_page(&[]);
}

#[test]
fn over_a_vlan() {
    curl_gets_the_page(&VLAN);
}

#[test]
fn over_qinq() {
    curl_gets_the_page(&QINQ);
}

#[test]
fn in_generic_mode() {
    let lab = lab();
    let _server = Nginx::start(&lab.host, &host_addresses(PORT)).unwrap();
    let file = |name: &str| lab.scratch().join(name);
    let services: String = host_addresses(PORT)
        .map(|address| format!("[[service]]\naddress = \"{address}\"\n"))
        .concat();
    let config = format!(
        "secret_file = {:?}\ncontrol_socket = {:?}\n\
         [[interface]]\nname = \"{INTERFACE}\"\nmode = \"generic\"\n{services}",
        file("secret"),
        file("levee.sock"),
    );
    fs::write(file("levee.toml"), config).unwrap();
    let config = file("levee.toml").display().to_string();
    let levee = Levee::start(&lab.host, &["run", "--config", &config].map(str::to_owned)).unwrap();
    let generic = [("interface", INTERFACE), ("mode", "generic")];
    let mode = levee.metrics().unwrap().sum("levee_xdp_mode", &generic);
    assert_eq!(mode, 1.0, "{}", levee.log().unwrap());
    for address in host_addresses(PORT) {
        assert_eq!(curl(&lab.client, address), PAGE, "{address}");
    }
    let counted = Counted::read(&levee);
    println!("{counted:?}");
    counted.assert_admitted(2);
}

#[test]
fn an_unprotected_port_is_left_alone() {
    let lab = lab();
    let levee = protect(&lab);
    let _server = Nginx::start(&lab.host, &host_addresses(PLAIN_PORT)).unwrap();
    for address in host_addresses(PLAIN_PORT) {
        assert_eq!(curl(&lab.client, address), PAGE, "{address}");
    }
    println!("{} packets passed", passed(&levee, "no_service"));
    assert_eq!(Counted::read(&levee).sent, 0);
    assert!(passed(&levee, "no_service") > 0);
}

#[test]
fn the_host_connects_out_and_answers_pings() {
    let lab = lab();
    let levee = protect(&lab);
    let clients = [CLIENT_V4.into(), CLIENT_V6.into()].map(|ip| SocketAddr::new(ip, PORT));
    let _server = Nginx::start(&lab.client, &clients).unwrap();
    for address in clients {
        assert_eq!(curl(&lab.host, address), PAGE, "{address}");
    }
    for address in host_addresses(PORT) {
        let ip = address.ip();
        lab.client.tool(&format!("ping -c 3 -i 0.1 {ip}")).unwrap();
    }
    assert_eq!(Counted::read(&levee).sent, 0);
}

/// As FTP servers do from port 20: the SYN-ACK then comes to a protected port.
#[test]
fn the_host_connects_out_from_the_protected_port() {
    let lab = lab();
    let levee = protect(&lab);
    let address = SocketAddr::from((CLIENT_V4, 5000));
    let _server = Server::start(&lab.client, address, echo);
    let stream = lab.host.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((HOST_V4, PORT)).into())?;
        socket.connect_timeout(&address.into(), LIMIT)?;
        Ok(socket.into())
    });
    assert_echo(&stream.unwrap(), "from the protected port");
    println!("{} packets of the connection", passed(&levee, "connection"));
    assert!(passed(&levee, "connection") > 0);
}

/// Two services of one port are told apart by their addresses.
#[test]
fn an_unprotected_address_of_a_protected_port_is_left_alone() {
    let lab = lab();
    let [v4, v6] = host_addresses(PORT);
    let levee = Levee::protect(&lab.host, &[INTERFACE], &[v4]).unwrap();
    let _servers = [v4, v6].map(|address| Server::start(&lab.host, address, echo));
    for address in [v4, v6] {
        assert_echo(&connect(&lab.client, address), "hello");
    }
    let counted = Counted::read(&levee);
    println!("{counted:?}");
    counted.assert_admitted(1);
}
