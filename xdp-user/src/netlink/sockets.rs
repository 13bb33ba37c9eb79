//! TCP sockets by state, other processes' too, and their end (`SOCK_DESTROY`).

use std::{io, net::SocketAddr};

use anyhow::{Context as _, Result};
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags},
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use nix::errno::Errno;

use super::Channel;

/// A TCP socket of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketRow {
    /// Its own end. IPv4 on a socket for both families is IPv4.
    pub local: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
    /// The kernel's name for it, which no other socket gets while the kernel runs.
    pub cookie: u64,
    /// Its inode, by which the process that has it can be found; 0 when none has.
    pub inode: u32,
    family: u8,
    id: SocketId,
}

/// What became of a socket that was to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destroyed {
    /// It is ended: its peer got a RST, its process gets ECONNABORTED.
    Now,
    /// It was gone already.
    Before,
}

/// Questions about sockets. After an error it is of no more use.
pub struct Sockets(Channel);

impl Sockets {
    /// # Errors
    /// Fails when the kernel gives no netlink socket.
    pub fn open() -> Result<Self> {
        Ok(Self(Channel::open(NETLINK_SOCK_DIAG)?))
    }

    /// Hands over every socket in one of these states, of both families; only those with that
    /// local port, if there is one. While sockets come and go, one may be missing or come twice.
    ///
    /// # Errors
    /// Fails when the kernel does not answer, as without `CONFIG_INET_DIAG`.
    pub fn dump(
        &mut self,
        states: &StateFlags,
        port: Option<u16>,
        mut each: impl FnMut(SocketRow),
    ) -> Result<()> {
        for (family, mut socket_id) in [
            (AF_INET, SocketId::new_v4()),
            (AF_INET6, SocketId::new_v6()),
        ] {
            // 0 is any.
            socket_id.source_port = port.unwrap_or(0);
            let request = request(family, states.clone(), socket_id);
            self.0
                .ask(request, NLM_F_REQUEST | NLM_F_DUMP, |answer| {
                    if let SockDiagMessage::InetResponse(response) = answer {
                        each(SocketRow::from(response.header));
                    }
                })
                .context("cannot list sockets")?;
        }
        Ok(())
    }

    /// Ends that very socket, whoever has it.
    ///
    /// # Errors
    /// Fails without CAP_NET_ADMIN, and on a kernel without `CONFIG_INET_DIAG_DESTROY`.
    pub fn destroy(&mut self, socket: &SocketRow) -> Result<Destroyed> {
        let request =
            SockDiagDestroy::new(request(socket.family, StateFlags::all(), socket.id.clone()));
        let Err(error) = self.0.ask(request, NLM_F_REQUEST | NLM_F_ACK, |_| {}) else {
            return Ok(Destroyed::Now);
        };
        let errno = error.downcast_ref().and_then(io::Error::raw_os_error);
        match errno.map(Errno::from_raw) {
            // The second: another socket has its addresses now.
            Some(Errno::ENOENT | Errno::ESTALE) => Ok(Destroyed::Before),
            _ => Err(error.context(format!("cannot end {} of {}", socket.local, socket.peer))),
        }
    }

    /// Whether this kernel can [end](Self::destroy) sockets.
    ///
    /// # Errors
    /// Fails when the kernel does not answer.
    pub fn can_destroy(&mut self) -> Result<bool> {
        // No socket has port 0 at both ends, so this ends nothing.
        let request = SockDiagDestroy::new(request(AF_INET, StateFlags::all(), SocketId::new_v4()));
        let Err(error) = self.0.ask(request, NLM_F_REQUEST | NLM_F_ACK, |_| {}) else {
            return Ok(true);
        };
        match error.downcast_ref().and_then(io::Error::raw_os_error) {
            Some(errno) => Ok(Errno::from_raw(errno) != Errno::EOPNOTSUPP),
            None => Err(error),
        }
    }
}

fn request(family: u8, states: StateFlags, socket_id: SocketId) -> SockDiagMessage {
    SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states,
        socket_id,
    })
}

impl From<InetResponseHeader> for SocketRow {
    fn from(header: InetResponseHeader) -> Self {
        let id = header.socket_id;
        Self {
            local: SocketAddr::new(id.source_address.to_canonical(), id.source_port),
            peer: SocketAddr::new(id.destination_address.to_canonical(), id.destination_port),
            cookie: u64::from_ne_bytes(id.cookie),
            inode: header.inode,
            family: header.family,
            id,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    fn find(local: SocketAddr, peer: SocketAddr) -> Option<SocketRow> {
        let mut found = None;
        Sockets::open()
            .unwrap()
            .dump(&StateFlags::ESTABLISHED, Some(local.port()), |row| {
                assert_eq!(row.local.port(), local.port());
                if row.local == local && row.peer == peer {
                    found = Some(row);
                }
            })
            .unwrap();
        found
    }

    fn destroy(row: &SocketRow) -> Destroyed {
        Sockets::open().unwrap().destroy(row).unwrap()
    }

    #[test]
    fn a_connection_is_found_and_only_that_very_one_is_ended() {
        // The last is a socket for both families that an IPv4 client connected to.
        for (bind, connect) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("[::1]:0", "::1"),
            ("[::]:0", "127.0.0.1"),
        ] {
            let listener = TcpListener::bind(bind).unwrap();
            let port = listener.local_addr().unwrap().port();
            let mut client = TcpStream::connect((connect, port)).unwrap();
            let (server, _) = listener.accept().unwrap();
            let local = SocketAddr::new(connect.parse().unwrap(), port);
            let row = find(local, client.local_addr().unwrap()).unwrap();
            let mut other = row.clone();
            other.id.cookie[0] ^= 1;
            assert_eq!(destroy(&other), Destroyed::Before, "{bind}");
            assert!(find(local, row.peer).is_some(), "{bind}");
            assert_eq!(destroy(&row), Destroyed::Now, "{bind}");
            let error = client.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{bind}");
            assert_eq!(destroy(&row), Destroyed::Before, "{bind}");
            drop(server);
        }
    }

    #[test]
    fn this_kernel_can_end_sockets() {
        assert!(Sockets::open().unwrap().can_destroy().unwrap());
    }
}
