//! Operators: connections are listed and ended, configurations change, levee stops.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use levee_tests::{
    levee::{Levee, ProxySetup},
    pattern::{BLOCK, Pattern},
    proxy_lab::{CLIENT, INTERFACE, PROXY, ProxyLab, with_port},
    sockets::{Server, accept, assert_echo, connect, echo, eventually, listen},
};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::common::{
    PORT, Stage, address, assert_reset, assert_turned_away, backend, backends, connect_from,
    number, numbered, service,
};

fn listed(stage: &Stage, filter: &[&str]) -> Vec<Value> {
    let arguments = [&["connections", "--json"], filter].concat();
    let answer: Value = serde_json::from_str(&stage.levee.ask(&arguments).unwrap()).unwrap();
    let rows = match &answer {
        Value::Array(rows) => rows,
        object => object["rows"].as_array().expect("rows"),
    };
    rows.clone()
}

#[test]
fn connections_are_listed_and_ended() {
    let stage = Stage::simple("");
    let _server = Server::start(&stage.lab.backend, backend(), echo);
    let first = connect(&stage.lab.client, address());
    let second = connect_from(&stage.lab.client, [10, 78, 1, 100].into(), address());
    for client in [&first, &second] {
        assert_echo(client, "hello");
    }
    assert_eq!(listed(&stage, &[]).len(), 2);
    println!("{}", stage.levee.ask(&["connections"]).unwrap());
    let rows = listed(&stage, &["--client", "10.78.1.100/32"]);
    assert_eq!(rows.len(), 1, "{rows:?}");
    let row = &rows[0];
    assert_eq!(row["client"], second.local_addr().unwrap().to_string());
    assert_eq!(row["backend_address"], backend().to_string());
    assert_eq!(
        (&row["client_state"], &row["backend_state"]),
        (&"ESTABLISHED".into(), &"ESTABLISHED".into())
    );
    assert_eq!(
        (
            row["bytes_from_client"].as_u64(),
            row["bytes_from_backend"].as_u64()
        ),
        (Some(5), Some(5))
    );
    stage
        .levee
        .ask(&["kill", row["id"].as_str().unwrap()])
        .unwrap();
    assert_reset(&second);
    assert_echo(&first, "still there");
    assert_eq!(listed(&stage, &[]).len(), 1);
    assert!(listed(&stage, &["--state", "CLOSE_WAIT"]).is_empty());
    assert!(stage.levee.ask(&["kill"]).is_err(), "no filter is not all");
    stage.levee.ask(&["kill", "--all"]).unwrap();
    assert_reset(&first);
    stage.assert_nothing_left();
    assert_eq!(stage.closed("killed"), 2);
}

/// A new configuration for the stage's levee, in force when this returns.
fn reload(stage: &Stage, configuration: &str) {
    let setup = setup(configuration);
    stage.levee.reconfigure(&setup).unwrap();
    stage.levee.ask(&["reload"]).unwrap();
}

fn setup(configuration: &str) -> ProxySetup<'_> {
    ProxySetup {
        interfaces: &[INTERFACE],
        configuration,
        ..ProxySetup::default()
    }
}

#[test]
fn a_reload_keeps_connections() {
    let [first, second] = [backends(2)[0], backends(2)[1]];
    let stage = Stage::new(&service(address(), "", &[first]));
    let _servers = [first, second]
        .into_iter()
        .zip(0..)
        .map(|(address, number)| numbered(&stage.lab.backend, address, number))
        .collect::<Vec<_>>();
    let old = connect(&stage.lab.client, address());
    assert_eq!(number(&old), 0);
    let other = with_port(PROXY, PORT + 1)[0];
    let services = service(address(), "", &[second]) + &service(other, "", &[first]);
    reload(&stage, &services);
    assert_echo(&old, "across the reload");
    assert_eq!(number(&connect(&stage.lab.client, address())), 1);
    assert_eq!(
        number(&connect(&stage.lab.client, other)),
        0,
        "an added service"
    );
    // A service that is removed takes no more clients; the ones it has stay.
    reload(&stage, &service(other, "", &[first]));
    assert_echo(&old, "across the removal");
    eventually("nobody listens any more", || {
        !levee_tests::relay::listens(&stage.lab.proxy, address()).unwrap()
    });
    drop(old);
    eventually("everything has ended", || listed(&stage, &[]).is_empty());
}

/// A configuration that cannot be used changes nothing.
#[test]
fn a_port_in_use_refuses_a_reload() {
    let stage = Stage::simple("");
    let _server = Server::start(&stage.lab.backend, backend(), echo);
    let taken = with_port(PROXY, PORT + 1)[0];
    let _other = listen(&stage.lab.proxy, taken);
    let services = service(address(), "", &[backend()]) + &service(taken, "", &[backend()]);
    stage.levee.reconfigure(&setup(&services)).unwrap();
    let error = stage.levee.ask(&["reload"]).unwrap_err().to_string();
    println!("{error}");
    assert!(error.contains(&taken.to_string()), "{error}");
    assert_echo(&connect(&stage.lab.client, address()), "as before");
}

#[test]
fn a_port_in_use_refuses_the_start() {
    let lab = ProxyLab::new().unwrap();
    let _other = listen(&lab.proxy, address());
    let services = service(address(), "", &[backend()]);
    let error = Levee::configured(&lab.proxy, &setup(&services)).unwrap_err();
    let error = error.to_string();
    println!("{error}");
    assert!(error.contains(&address().to_string()), "{error}");
}

/// Somebody who shares the port is as much in the way as somebody who does not.
#[test]
fn a_shared_port_refuses_the_start() {
    let lab = ProxyLab::new().unwrap();
    let shared = || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address().into())?;
        socket.listen(1)?;
        Ok(socket)
    };
    let _other = lab.proxy.run(shared).unwrap();
    let services = service(address(), "", &[backend()]);
    let error = Levee::configured(&lab.proxy, &setup(&services)).unwrap_err();
    println!("{error}");
    assert!(
        error.to_string().contains(&address().to_string()),
        "{error}"
    );
}

const BLOCKS: u64 = 400;

/// Sends slowly enough to be in the middle when levee is told to stop.
fn send_slowly(mut stream: &TcpStream) {
    let mut pattern = Pattern::new(9);
    for number in 0..BLOCKS {
        stream.write_all(pattern.numbered(number)).unwrap();
        thread::sleep(Duration::from_millis(5));
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
}

#[test]
fn a_stop_waits_for_connections_and_loses_no_byte() {
    let stage = Stage::simple("");
    let (client, server) = stage.pair(&stage.listen());
    thread::scope(|scope| {
        let sender = scope.spawn(|| send_slowly(&server));
        let receiver = scope.spawn(|| Pattern::new(9).expect(&client));
        thread::sleep(Duration::from_millis(300));
        stage.levee.signal(Signal::SIGTERM).unwrap();
        eventually("nobody listens any more", || {
            !levee_tests::relay::listens(&stage.lab.proxy, address()).unwrap()
        });
        assert!(!sender.is_finished(), "the transfer outlasts the listener");
        sender.join().unwrap();
        assert_eq!(receiver.join().unwrap(), BLOCKS);
    });
    println!("{} bytes across the stop", BLOCKS * BLOCK as u64);
    drop((client, server));
    let (status, log) = stage.levee.stop().unwrap();
    assert!(status.success(), "{status}: {log}");
}

#[test]
fn a_stop_ends_what_is_left_at_its_deadline() {
    let configuration = format!(
        "[proxy]\ndrain_timeout = \"1s\"\n{}",
        service(address(), "", &[backend()])
    );
    let stage = Stage::new(&configuration);
    let (mut client, mut server) = stage.pair(&stage.listen());
    client.write_all(b"x").unwrap();
    server.read_exact(&mut [0]).unwrap();
    stage.levee.signal(Signal::SIGTERM).unwrap();
    assert_reset(&client);
    assert_reset(&server);
    let (status, log) = stage.levee.stop().unwrap();
    assert!(status.success(), "{status}: {log}");
}

/// Clients that have come through the handshake before the stop are served.
#[test]
fn a_stop_resets_nobody_in_the_accept_queue() {
    const CLIENTS: usize = 50;
    let stage = Stage::simple("");
    let listener = stage.listen();
    let (lab, levee) = (&stage.lab, &stage.levee);
    let results: Vec<bool> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = connect(&lab.client, address());
                    client.write_all(b"x")?;
                    client.read_exact(&mut [0])
                })
            })
            .collect();
        levee.signal(Signal::SIGTERM).unwrap();
        let mut served = Vec::new();
        for _ in 0..CLIENTS {
            let mut server = accept(&listener);
            server.write_all(b"y").unwrap();
            served.push(server);
        }
        clients
            .into_iter()
            .map(|client| client.join().unwrap().is_ok())
            .collect()
    });
    assert_eq!(results.iter().filter(|&&served| served).count(), CLIENTS);
}

#[test]
fn a_second_signal_ends_the_wait() {
    let stage = Stage::simple("");
    let (client, _server) = stage.pair(&stage.listen());
    stage.levee.signal(Signal::SIGTERM).unwrap();
    eventually("nobody listens any more", || {
        !levee_tests::relay::listens(&stage.lab.proxy, address()).unwrap()
    });
    let (status, log) = stage.levee.stop().unwrap();
    assert!(status.success(), "{status}: {log}");
    assert_reset(&client);
}

#[test]
fn a_weight_of_0_drains_a_backend() {
    let drained: SocketAddr = backends(2)[0];
    let stage = Stage::new(&service(address(), "", &backends(2)));
    let _servers: Vec<_> = backends(2)
        .into_iter()
        .zip(0..)
        .map(|(address, number)| numbered(&stage.lab.backend, address, number))
        .collect();
    let clients: Vec<_> = (0..8)
        .map(|_| connect(&stage.lab.client, address()))
        .collect();
    let numbers: Vec<_> = clients.iter().map(number).collect();
    assert!(numbers.contains(&0) && numbers.contains(&1), "{numbers:?}");
    let services = service(address(), "", &[backends(2)[1]])
        + &format!("[[service.backend]]\naddress = \"{drained}\"\nweight = 0\n");
    reload(&stage, &services);
    for client in &clients {
        assert_echo(client, "still there");
    }
    for _ in 0..6 {
        assert_eq!(number(&connect(&stage.lab.client, address())), 1);
    }
    let nobody = format!("[[service.backend]]\naddress = \"{drained}\"\nweight = 0\n");
    reload(&stage, &(service(address(), "", &[]) + &nobody));
    assert_turned_away(&stage.lab.client, CLIENT[0], address());
}
