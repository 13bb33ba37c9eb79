//! Who listens: nobody, several at once, or one that the kernel makes no sockets for.

use std::{
    io::{self, ErrorKind, Read as _},
    net::{SocketAddr, TcpListener},
    time::Instant,
};

use levee_tests::{
    sockets::{Server, assert_echo, connect, echo, eventually, try_connect},
    topology::{Lab, host_addresses},
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::common::{Counted, PORT, lab, protect};

/// Connects and reports how it ended: the cookie is proven first, so the refusal may come during
/// or after `connect`.
fn refusal(lab: &Lab, address: SocketAddr) -> ErrorKind {
    let mut stream = match try_connect(&lab.client, address) {
        Ok(stream) => stream,
        Err(error) => return error.downcast_ref::<io::Error>().unwrap().kind(),
    };
    let read = stream.read(&mut [0]);
    read.map(|_| panic!("{address}: the connection was closed in order"))
        .unwrap_err()
        .kind()
}

#[test]
fn nobody_listens() {
    let lab = lab();
    let levee = protect(&lab);
    for address in host_addresses(PORT) {
        let kind = refusal(&lab, address);
        println!("{address}: {kind:?}");
        let expected = [ErrorKind::ConnectionRefused, ErrorKind::ConnectionReset];
        assert!(expected.contains(&kind), "{kind:?}");
    }
    let counted = Counted::read(&levee);
    println!("{counted:?}");
    assert_eq!((counted.valid, counted.no_listener), (2, 2));
    assert_eq!(counted.admitted + counted.refused, 0);
    // A server that comes later is found at once.
    let address = host_addresses(PORT)[0];
    let _server = Server::start(&lab.host, address, echo);
    assert_echo(&connect(&lab.client, address), "late");
}

#[test]
fn every_listener_of_a_group_gets_connections() {
    const CONNECTIONS: usize = 64;
    let lab = lab();
    let levee = protect(&lab);
    let address = host_addresses(PORT)[0];
    let listeners = [(); 2].map(|()| {
        lab.host.run(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_port(true)?;
            socket.bind(&address.into())?;
            socket.listen(128)?;
            Ok(TcpListener::from(socket))
        })
    });
    let listeners = listeners.map(Result::unwrap);
    let _clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| connect(&lab.client, address))
        .collect();
    eventually("all are admitted", || {
        Counted::read(&levee).admitted == CONNECTIONS as u64
    });
    let accepted = listeners.map(|listener| {
        listener.set_nonblocking(true).unwrap();
        listener.incoming().map_while(Result::ok).count()
    });
    println!("{accepted:?} of {CONNECTIONS}");
    assert_eq!(accepted.iter().sum::<usize>(), CONNECTIONS);
    assert!(accepted.iter().all(|&count| count > 0), "{accepted:?}");
}

/// As Go's servers do by default since 1.24. The kernel makes no sockets from cookies for them.
#[test]
fn a_multipath_listener_is_refused_and_logged() {
    const ATTEMPTS: u64 = 5;
    let lab = lab();
    let address = host_addresses(PORT)[0];
    let listener = lab.host.run(|| {
        let protocol = Some(Protocol::MPTCP);
        let socket = Socket::new(Domain::IPV4, Type::STREAM, protocol)?;
        socket.bind(&address.into())?;
        socket.listen(128)?;
        Ok(socket)
    });
    let _listener = match listener {
        Ok(listener) => listener,
        Err(error) => {
            println!("skipped: this kernel has no Multipath TCP: {error:#}");
            return;
        }
    };
    let levee = protect(&lab);
    let start = Instant::now();
    for _ in 0..ATTEMPTS {
        println!("{address}: {:?}", refusal(&lab, address));
    }
    let seconds = start.elapsed().as_secs() as usize;
    let counted = Counted::read(&levee);
    println!("{counted:?}");
    assert_eq!((counted.refused, counted.admitted), (ATTEMPTS, 0));
    let said = |what: &str| levee.log().unwrap().matches(what).count();
    let refused = "made no socket for a proven client";
    eventually("the refusal is logged", || said(refused) > 0);
    println!("{}", levee.log().unwrap());
    assert!(said(refused) <= seconds + 2, "at most one a second");
    assert_eq!(said("Multipath TCP"), 1);
}
