//! No connection stays for ever in a state that its timeout bounds, and none that lives is touched.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    thread,
    time::{Duration, Instant},
};

use levee_tests::{
    proxy_lab::{BACKEND, with_port},
    sockets::{LIMIT, Server, accept, assert_echo, connect, echo, eventually, read_all},
};

use crate::common::{BACKEND_PORT, PORT, Stage, address, assert_reset, backend, service};

fn reaped(stage: &Stage, reason: &str) -> u64 {
    stage.metric("levee_connections_reaped_total", &[("reason", reason)])
}

#[test]
fn an_idle_connection_is_ended() {
    let stage = Stage::simple("idle_timeout = \"1s\"");
    let (client, server) = stage.pair(&stage.listen());
    let start = Instant::now();
    assert_reset(&client);
    assert_reset(&server);
    println!("ended after {:?}", start.elapsed());
    assert!(start.elapsed() > Duration::from_millis(900));
    stage.assert_nothing_left();
    assert_eq!(reaped(&stage, "idle_timeout"), 1);
}

/// A byte now and then, in one direction only, is life.
#[test]
fn a_connection_that_is_not_idle_stays() {
    let stage = Stage::simple("idle_timeout = \"1s\"");
    let (client, mut server) = stage.pair(&stage.listen());
    for _ in 0..8 {
        thread::sleep(Duration::from_millis(400));
        server.write_all(b"x").unwrap();
        (&client).read_exact(&mut [0]).unwrap();
    }
    assert_eq!(reaped(&stage, "idle_timeout"), 0);
}

#[test]
fn a_first_byte_is_waited_for() {
    let stage = Stage::simple("first_byte_timeout = \"1s\"");
    let listener = stage.listen();
    let (client, _server) = stage.pair(&listener);
    let (spoken, other) = stage.pair(&listener);
    (&other).write_all(b"x").unwrap();
    (&spoken).read_exact(&mut [0]).unwrap();
    assert_reset(&client);
    assert_eq!(reaped(&stage, "first_byte_timeout"), 1);
    (&spoken).write_all(b"y").unwrap();
    (&other).read_exact(&mut [0]).unwrap();
}

#[test]
fn a_backend_that_does_not_close_is_ended() {
    let stage = Stage::simple("close_wait_timeout = \"1s\"");
    let (client, server) = stage.pair(&stage.listen());
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&server), b"");
    assert_reset(&client);
    stage.assert_nothing_left();
    assert_eq!(reaped(&stage, "close_wait_timeout"), 1);
}

#[test]
fn a_client_that_does_not_close_is_ended() {
    let stage = Stage::simple("fin_wait_timeout = \"1s\"");
    let (client, server) = stage.pair(&stage.listen());
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&client), b"");
    assert_reset(&server);
    stage.assert_nothing_left();
    assert_eq!(reaped(&stage, "fin_wait_timeout"), 1);
}

/// A long answer to a client that has shut down its direction.
#[test]
fn a_half_closed_connection_on_which_bytes_move_stays() {
    let stage = Stage::simple("close_wait_timeout = \"1s\"");
    let (client, mut server) = stage.pair(&stage.listen());
    client.shutdown(Shutdown::Write).unwrap();
    for _ in 0..8 {
        thread::sleep(Duration::from_millis(400));
        server.write_all(b"x").unwrap();
    }
    drop(server);
    assert_eq!(read_all(&client), b"xxxxxxxx");
    stage.assert_nothing_left();
    assert_eq!(stage.closed("finished"), 1);
}

fn in_close_wait(stage: &Stage) -> usize {
    let sockets = stage.lab.proxy.tool("ss -Htn state close-wait").unwrap();
    sockets.lines().count()
}

/// A client that sends FIN and goes on holding its socket, a backend that never closes its own:
/// levee's end towards the client stays in CLOSE_WAIT. Beside them, clients that live.
#[test]
fn a_thousand_leaked_connections_are_gone_by_the_deadline() {
    const LEAKED: usize = 1_000;
    const HEALTHY: usize = 100;
    const TIMEOUT: Duration = Duration::from_secs(10);
    let healthy_address = with_port(levee_tests::proxy_lab::PROXY, PORT + 1)[0];
    let healthy_backend = with_port(BACKEND, BACKEND_PORT + 1)[0];
    let settings = format!("close_wait_timeout = \"{}s\"", TIMEOUT.as_secs());
    let services = service(address(), &settings, &[backend()])
        + &service(healthy_address, &settings, &[healthy_backend]);
    let stage = Stage::new(&services);
    let listener = stage.listen();
    let _server = Server::start(&stage.lab.backend, healthy_backend, echo);
    let healthy: Vec<TcpStream> = (0..HEALTHY)
        .map(|_| connect(&stage.lab.client, healthy_address))
        .collect();
    let leaked: Vec<_> = (0..LEAKED)
        .map(|_| {
            let pair = (connect(&stage.lab.client, address()), accept(&listener));
            pair.0.shutdown(Shutdown::Write).unwrap();
            pair
        })
        .collect();
    let last = Instant::now();
    eventually("the last FIN has arrived", || {
        let states = [("state", "CLOSE_WAIT")];
        stage.metric("levee_connections", &states) + reaped(&stage, "close_wait_timeout")
            >= LEAKED as u64
    });
    println!("{} sockets in CLOSE_WAIT", in_close_wait(&stage));
    while reaped(&stage, "close_wait_timeout") < LEAKED as u64 {
        assert!(last.elapsed() < TIMEOUT + LIMIT, "not gone by the deadline");
        for client in &healthy {
            assert_echo(client, "alive");
        }
        thread::sleep(Duration::from_millis(200));
    }
    println!("gone {:?} after the last FIN", last.elapsed());
    assert_eq!(in_close_wait(&stage), 0);
    for (client, server) in &leaked {
        assert_reset(client);
        // It had its FIN; what it writes now meets a RST.
        assert_eq!(read_all_or_reset(server), 0);
    }
    for client in &healthy {
        assert_echo(client, "alive");
    }
    let of_healthy = [("leg", "client"), ("state", "ESTABLISHED")];
    assert_eq!(
        stage.metric("levee_connections", &of_healthy),
        HEALTHY as u64
    );
    assert_eq!(reaped(&stage, "close_wait_timeout"), LEAKED as u64);
}

/// Bytes that came before the FIN or the RST.
fn read_all_or_reset(mut stream: &TcpStream) -> usize {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(count) => count,
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            bytes.len()
        }
    }
}

/// A peer that is gone without a word is found by probes.
#[test]
fn keepalive_finds_a_dead_client() {
    let settings = "client_keepalive = { idle = \"1s\", interval = \"1s\", count = 2 }";
    let stage = Stage::simple(settings);
    let (_client, server) = stage.pair(&stage.listen());
    stage.lab.client.tool("ip link set eth0 down").unwrap();
    // Nobody is given up in less than 30 s: TCP_USER_TIMEOUT is for slow readers too.
    server.set_read_timeout(Some(2 * LIMIT)).unwrap();
    let start = Instant::now();
    assert_reset(&server);
    println!("found after {:?}", start.elapsed());
    assert_eq!(stage.closed("client_timed_out"), 1);
    stage.assert_nothing_left();
}
