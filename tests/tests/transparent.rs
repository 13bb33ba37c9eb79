//! Backends see clients' own addresses, with the routes that `deploy/levee-tproxy.sh` makes.

use std::{
    io::Read as _,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use levee_tests::{
    levee::{Levee, ProxySetup},
    netns::Netns,
    proxy_lab::{BACKEND, CLIENT, INTERFACE, PROXY, PROXY_INSIDE, ProxyLab, with_port},
    sockets::{Server, accept, assert_echo, connect, echo, listen},
};

const PORT: u16 = 7000;
/// Of a service that is not transparent.
const PLAIN_PORT: u16 = 7001;
const BACKEND_PORT: u16 = 7002;

fn service(address: SocketAddr, backend: SocketAddr, settings: &str) -> String {
    format!(
        "[[service]]\naddress = \"{address}\"\nmode = \"proxy\"\n{settings}\n\
         [[service.backend]]\naddress = \"{backend}\"\n"
    )
}

/// Over IPv4 and IPv6, each with a transparent service and one that is not.
fn configuration() -> String {
    let backends = with_port(BACKEND, BACKEND_PORT);
    let pairs = |port| with_port(PROXY, port).into_iter().zip(backends);
    let settings = "transparent = true\nconnect_timeout = \"1s\"\nretries = 0";
    let transparent = pairs(PORT).map(|(address, backend)| service(address, backend, settings));
    let plain = pairs(PLAIN_PORT).map(|(address, backend)| service(address, backend, ""));
    transparent.chain(plain).collect()
}

fn script(netns: &Netns, argument: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/levee-tproxy.sh");
    let mut command = netns.command(&path.to_string_lossy());
    let output = command.arg(argument).output().unwrap();
    assert!(output.status.success(), "{argument}: {output:?}");
}

/// Whom the backend sees when a client connects to this port.
fn seen(lab: &ProxyLab, port: u16) -> [IpAddr; 2] {
    let addresses = with_port(PROXY, port).into_iter();
    let mut seen = addresses
        .zip(with_port(BACKEND, BACKEND_PORT))
        .map(|(address, backend)| {
            let listener = listen(&lab.backend, backend);
            let client = connect(&lab.client, address);
            let server = accept(&listener);
            let source = server.peer_addr().unwrap().ip();
            let echo = std::thread::spawn(|| echo(server));
            assert_echo(&client, "there and back\n");
            drop(client);
            echo.join().unwrap().unwrap();
            source
        });
    [seen.next().unwrap(), seen.next().unwrap()]
}

#[test]
fn backends_see_clients() {
    let lab = ProxyLab::new().unwrap();
    let setup = ProxySetup {
        interfaces: &[INTERFACE],
        configuration: &configuration(),
        ..ProxySetup::default()
    };
    let _levee = Levee::configured(&lab.proxy, &setup).unwrap();
    // Twice: it may be run again.
    script(&lab.proxy, "up");
    script(&lab.proxy, "up");
    assert_eq!(seen(&lab, PORT), CLIENT);
    assert_eq!(seen(&lab, PLAIN_PORT), PROXY_INSIDE);

    // What leaves with the script is what the connections needed.
    script(&lab.proxy, "down");
    script(&lab.proxy, "down");
    assert_eq!(seen(&lab, PLAIN_PORT), PROXY_INSIDE);
    let _backends =
        with_port(BACKEND, BACKEND_PORT).map(|address| Server::start(&lab.backend, address, echo));
    for address in with_port(PROXY, PORT) {
        let mut client = connect(&lab.client, address);
        let error = client.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
}
