//! Connections that were in TIME_WAIT before levee started: the data path has seen nothing of
//! them, so it is told. What it knows of those that close later, it has from their FINs.

use std::{collections::HashSet, net::SocketAddr};

use anyhow::Result;
use netlink_packet_sock_diag::inet::StateFlags;
use xdp_common::{
    abi::ClosingMarks,
    closing::{Place, WORDS},
    tuple::Tuple,
};

use crate::netlink::sockets::Sockets;

/// Marks for the connections of these services that are in TIME_WAIT now.
///
/// # Errors
/// Fails when the kernel does not list its sockets.
pub fn marks(services: &HashSet<SocketAddr>) -> Result<Box<ClosingMarks>> {
    let mut marks = Box::new(ClosingMarks { words: [0; WORDS] });
    Sockets::open()?.dump(&StateFlags::TIME_WAIT, None, |socket| {
        if services.contains(&socket.local) {
            let place = Place::new(hash(socket.peer, socket.local));
            marks.words[place.word] |= place.bit;
        }
    })?;
    Ok(marks)
}

/// As the data path computes it for a segment of the client's.
fn hash(client: SocketAddr, service: SocketAddr) -> u64 {
    let tuple = Tuple {
        src: client.ip().into(),
        dst: service.ip().into(),
        src_port: client.port(),
        dst_port: service.port(),
    };
    tuple.hash()
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        net::{Shutdown, TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn a_connection_that_the_server_closed_first_is_marked() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let service = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(service).unwrap();
        let (server, peer) = listener.accept().unwrap();
        server.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        drop(client);
        drop(server);
        let place = Place::new(hash(peer, service));
        let is_marked = |services: &[SocketAddr]| {
            let services = services.iter().copied().collect();
            marks(&services).unwrap().words[place.word] & place.bit != 0
        };
        assert!(is_marked(&[service]));
        assert!(!is_marked(&[]));
    }
}
