//! How connections end: as between two hosts without levee.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use levee_tests::{
    netns::Netns,
    sockets::{LIMIT, assert_echo, echo, eventually, read_all, reset},
};
use socket2::{Domain, Socket, Type};

use crate::common::{Stage, addresses, assert_reset, who};

#[test]
fn a_half_closed_connection_still_carries_the_other_way() {
    let stage = Stage::plain();
    for family in [0, 1] {
        for client_first in [true, false] {
            let (client, server) = stage.pair(family);
            let (mut first, mut last) = if client_first {
                (client, server)
            } else {
                (server, client)
            };
            first.write_all(b"the last of it").unwrap();
            first.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_all(&last), b"the last of it");
            for _ in 0..10 {
                last.write_all(&[b'x'; 100_000]).unwrap();
                first.read_exact(&mut [0; 100_000]).unwrap();
            }
            last.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_all(&first), b"");
        }
    }
    stage.assert_nothing_left();
}

#[test]
fn a_reset_of_either_end_reaches_the_other() {
    let stage = Stage::plain();
    for family in [0, 1] {
        let (client, server) = stage.pair(family);
        reset(client);
        assert_reset(&server);
        let (client, server) = stage.pair(family);
        reset(server);
        assert_reset(&client);
    }
    stage.assert_nothing_left();
}

/// Connects from this very address and port.
fn connect_from(netns: &Netns, source: SocketAddr, target: SocketAddr) -> TcpStream {
    let connect = || -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&source.into())?;
        socket.connect_timeout(&target.into(), LIMIT)?;
        socket.set_read_timeout(Some(LIMIT))?;
        Ok(socket.into())
    };
    let mut connected = None;
    eventually("the port is free at the client", || {
        match netns.run(|| Ok(connect())).unwrap() {
            Err(error) if is_taken(&error) => false,
            result => {
                connected = Some(result.unwrap());
                true
            }
        }
    });
    connected.expect("it was waited for")
}

/// Whether the client's own kernel still has the last socket: a process that another test starts
/// at this moment holds every descriptor for as long as it takes to become a program.
fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable
    )
}

/// The server closes first, so TIME_WAIT is its own; the client may use its port again at once.
#[test]
fn a_port_is_used_again_while_the_server_is_in_time_wait() {
    let stage = Stage::plain();
    let _servers = stage.serve(who);
    for address in addresses() {
        let client = stage.connect(address);
        let source = client.local_addr().unwrap();
        assert_eq!(read_all(&client), source.to_string().into_bytes());
        drop(client);
        for _ in 0..5 {
            let client = connect_from(&stage.lab.client, source, address);
            assert_eq!(read_all(&client), source.to_string().into_bytes());
        }
    }
}

/// After a RST nothing is in TIME_WAIT anywhere.
#[test]
fn a_port_is_used_again_after_a_reset() {
    let stage = Stage::plain();
    let _servers = stage.serve(echo);
    for address in addresses() {
        let client = stage.connect(address);
        assert_echo(&client, "first");
        let source = client.local_addr().unwrap();
        reset(client);
        for _ in 0..5 {
            let client = connect_from(&stage.lab.client, source, address);
            assert_echo(&client, "again");
            reset(client);
        }
    }
}

/// A silent connection that both ends leave alone stays, longer than anything of a handshake lasts.
#[test]
fn silence_ends_nothing() {
    let stage = Stage::plain();
    let _servers = stage.serve(echo);
    let clients = addresses().map(|address| stage.connect(address));
    for client in &clients {
        assert_echo(client, "before");
    }
    std::thread::sleep(Duration::from_secs(4));
    for client in &clients {
        assert_echo(client, "after");
    }
}
