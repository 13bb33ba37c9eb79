//! Connections that a server never closes, on a real kernel.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{
    common::{Lab, eventually, metric},
    leaking_server::LeakingServer,
};

fn connect(connections: usize) -> Vec<TcpStream> {
    (0..connections)
        .map(|_| TcpStream::connect("192.0.2.1:80").unwrap())
        .collect()
}

fn echo(stream: &mut TcpStream) {
    stream.write_all(b"alive").unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"alive");
}

#[test]
fn what_a_server_leaks_is_ended_and_what_it_serves_is_not() {
    let lab = Lab::new();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let _server = LeakingServer::start(&["192.0.2.1:80"]);
    let config = lab.write_config(
        "[[interface]]\nname = \"lv0\"\n[[service]]\nname = \"leaking\"\naddress = \
         \"192.0.2.1:80\"\nreap_close_wait = \"10s\"\n",
    );
    let running = lab.start(&mut lab.run_config(&config));
    let reaped = || {
        let name =
            "levee_connections_reaped_total{service=\"leaking\",reason=\"close_wait_timeout\"}";
        metric(name)
    };
    assert_eq!(reaped(), Some(0.0));
    let mut healthy = connect(100);
    healthy.iter_mut().for_each(echo);
    let leaked = connect(1000);
    let start = Instant::now();
    for client in &leaked {
        client.shutdown(Shutdown::Write).unwrap();
    }
    eventually("all are ended", || reaped() == Some(1000.0));
    assert!(start.elapsed() >= Duration::from_secs(10));
    for mut client in leaked {
        let error = client.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    healthy.iter_mut().for_each(echo);
    assert_eq!(reaped(), Some(1000.0));
    drop(running);
}
