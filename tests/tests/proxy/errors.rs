//! What runs out is refused and counted, and never waited for in a busy loop.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use levee_tests::{
    levee::ProxySetup,
    proxy_lab::INTERFACE,
    sockets::{Server, assert_echo, connect, echo, eventually, try_connect},
};

use crate::common::{Stage, address, backend, service};

/// Time that a process has been on a CPU, all threads.
fn on_cpu(process: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    tasks
        .map(|task| {
            let stat = fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
            let ns = stat.split_whitespace().next().unwrap();
            Duration::from_nanos(ns.parse().unwrap())
        })
        .sum()
}

/// The share of a CPU that levee uses while nothing is asked of it.
fn share(stage: &Stage) -> f64 {
    let (start, before) = (Instant::now(), on_cpu(stage.levee.id()));
    thread::sleep(Duration::from_secs(2));
    (on_cpu(stage.levee.id()) - before).as_secs_f64() / start.elapsed().as_secs_f64()
}

#[test]
fn out_of_file_descriptors() {
    const CLIENTS: usize = 300;
    const DESCRIPTORS: u32 = 160;
    let stage = Stage::with(&ProxySetup {
        descriptors: Some(DESCRIPTORS),
        interfaces: &[INTERFACE],
        configuration: &format!(
            "[proxy]\npipes_max = 0\n{}",
            service(address(), "", &[backend()])
        ),
        ..ProxySetup::default()
    });
    println!("{}", stage.levee.log().unwrap());
    let _server = Server::start(&stage.lab.backend, backend(), echo);
    let clients: Vec<TcpStream> = (0..CLIENTS)
        .filter_map(|_| try_connect(&stage.lab.client, address()).ok())
        .collect();
    let used = share(&stage);
    let accepted = stage.metric("levee_connections", &[("leg", "client")]);
    let refused = stage.metric("levee_connections_refused_total", &[]);
    println!(
        "{accepted} of {CLIENTS} connections with {DESCRIPTORS} descriptors, {refused} refused, \
         {:.1} % of a CPU",
        used * 100.0
    );
    assert!(accepted > 0 && refused > 0);
    assert!(used < 0.25, "busy: {used}");
    drop(clients);
    stage.assert_nothing_left();
    assert_echo(
        &connect(&stage.lab.client, address()),
        "as if nothing had been",
    );
}

/// The kernel refuses descriptors that levee counts on.
#[test]
fn file_descriptors_taken_away() {
    let stage = Stage::simple("");
    let _server = Server::start(&stage.lab.backend, backend(), echo);
    let held = connect(&stage.lab.client, address());
    assert_echo(&held, "before");
    let limit = |descriptors: usize| {
        let id = stage.levee.id();
        let line = format!("prlimit --pid {id} --nofile={descriptors}:");
        stage.lab.proxy.tool(&line).unwrap();
    };
    let open = fs::read_dir(format!("/proc/{}/fd", stage.levee.id())).unwrap();
    limit(open.count());
    let turned_away: Vec<_> = (0..20)
        .map(|_| try_connect(&stage.lab.client, address()))
        .collect();
    let used = share(&stage);
    let short = || {
        stage.metric("levee_accept_errors_total", &[("reason", "fds")])
            + stage.closed("fds_exhausted")
            + stage.refused("fds_exhausted")
    };
    assert_echo(&held, "meanwhile");
    limit(1_000);
    println!(
        "{} times without descriptors, {:.1} % of a CPU",
        short(),
        used * 100.0
    );
    assert!(short() > 0);
    assert!(used < 0.25, "busy: {used}");
    drop(turned_away);
    eventually("clients are served again", || {
        let mut client = connect(&stage.lab.client, address());
        let exchange = client
            .write_all(b"x")
            .and_then(|()| client.read_exact(&mut [0]));
        exchange.is_ok()
    });
}

/// Listeners are closed when nobody waits any more, which is never where nobody can be accepted.
#[test]
fn a_stop_without_file_descriptors_ends_in_time() {
    let configuration = format!(
        "[proxy]\ndrain_timeout = \"1s\"\n{}",
        service(address(), "", &[backend()])
    );
    let stage = Stage::new(&configuration);
    let line = format!("prlimit --pid {} --nofile=8:", stage.levee.id());
    stage.lab.proxy.tool(&line).unwrap();
    let _waiting: Vec<_> = (0..8)
        .map(|_| connect(&stage.lab.client, address()))
        .collect();
    let (status, log) = stage.levee.stop().unwrap();
    assert!(status.success(), "{log}");
    assert!(log.contains("cannot accept a client: EMFILE"), "{log}");
}

/// Backends that refuse every client, and clients that come back at once.
#[test]
fn a_refusing_backend_keeps_nobody_busy() {
    let stage = Stage::simple("");
    for _ in 0..200 {
        // It may be reset before the connect has returned.
        drop(try_connect(&stage.lab.client, address()));
    }
    eventually("all have ended", || {
        stage.closed("connect_refused") + stage.closed("no_backend") + stage.closed("client_reset")
            >= 200
    });
    stage.assert_nothing_left();
    let used = share(&stage);
    println!("{:.1} % of a CPU afterwards", used * 100.0);
    assert!(used < 0.25, "busy: {used}");
}

/// Connections that are half-closed or full are waited for, not polled.
#[test]
fn waiting_keeps_nobody_busy() {
    const CONNECTIONS: usize = 50;
    let stage = Stage::simple("");
    let listener = stage.listen();
    let pairs: Vec<_> = (0..CONNECTIONS).map(|_| stage.pair(&listener)).collect();
    for (number, (client, server)) in pairs.iter().enumerate() {
        match number % 3 {
            0 => client.shutdown(std::net::Shutdown::Write).unwrap(),
            1 => server.shutdown(std::net::Shutdown::Write).unwrap(),
            _ => fill(server),
        }
    }
    let used = share(&stage);
    println!(
        "{:.1} % of a CPU for {CONNECTIONS} waiting connections",
        used * 100.0
    );
    assert!(used < 0.25, "busy: {used}");
}

/// Writes until nothing more is taken.
fn fill(mut stream: &TcpStream) {
    stream
        .set_write_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    while std::io::Write::write(&mut stream, &[0; 65_536]).is_ok() {}
}
