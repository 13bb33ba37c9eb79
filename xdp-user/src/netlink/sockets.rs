//! TCP sockets by state, other processes' too, and their end (`SOCK_DESTROY`).

use std::{io, net::SocketAddr};

use anyhow::{Context as _, Result};
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use nix::errno::Errno;

use xdp_common::abi::{OFFER_ECN, OFFER_SACK, OFFER_TIMESTAMPS, OFFER_WINDOW_SCALE};

use super::Channel;
use crate::learned::Agreed;

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

/// `INET_DIAG_NOCOOKIE`: whichever socket has these addresses.
const ANY_COOKIE: [u8; 8] = [0xff; 8];

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

    /// What the other end of an established connection agreed to in its handshake; `None` when there
    /// is no such connection.
    ///
    /// # Errors
    /// Fails when the kernel does not answer, as without `CONFIG_INET_DIAG`.
    pub fn agreed(&mut self, local: SocketAddr, peer: SocketAddr) -> Result<Option<Agreed>> {
        let (family, mut id) = match local {
            SocketAddr::V4(_) => (AF_INET, SocketId::new_v4()),
            SocketAddr::V6(_) => (AF_INET6, SocketId::new_v6()),
        };
        (id.source_address, id.source_port) = (local.ip(), local.port());
        (id.destination_address, id.destination_port) = (peer.ip(), peer.port());
        id.cookie = ANY_COOKIE;
        let mut request = request(family, StateFlags::all(), id);
        if let SockDiagMessage::InetRequest(request) = &mut request {
            request.extensions = ExtensionFlags::INFO;
        }
        let mut found = None;
        let answer = self.0.ask(request, NLM_F_REQUEST | NLM_F_ACK, |answer| {
            if let SockDiagMessage::InetResponse(response) = answer {
                found = response.nlas.iter().find_map(agreed_by);
            }
        });
        match answer {
            Ok(()) => Ok(found),
            Err(error) if is(&error, Errno::ENOENT) => Ok(None),
            Err(error) => Err(error.context(format!("cannot examine {local} of {peer}"))),
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

fn is(error: &anyhow::Error, errno: Errno) -> bool {
    let found = error.downcast_ref().and_then(io::Error::raw_os_error);
    found.map(Errno::from_raw) == Some(errno)
}

/// Reads `struct tcp_info` (linux/tcp.h): `tcpi_options`, `tcpi_snd_wscale` and `tcpi_snd_mss`.
fn agreed_by(attribute: &Nla) -> Option<Agreed> {
    /// `TCPI_OPT_*`, and what may be offered to others then.
    const OPTIONS: [(u8, u8); 4] = [
        (1, OFFER_TIMESTAMPS),
        (2, OFFER_SACK),
        (4, OFFER_WINDOW_SCALE),
        (8, OFFER_ECN),
    ];
    /// What the timestamps option takes of every segment, bytes (RFC 7323 appendix A).
    const TIMESTAMPS_LEN: u32 = 12;
    let Nla::TcpInfo(info) = attribute else {
        return None;
    };
    let (options, scales) = (info.get(5)?, info.get(6)?);
    let segment = u32::from_ne_bytes(info.get(16..20)?.try_into().ok()?);
    let agreed = OPTIONS.iter().filter(|(option, _)| options & option != 0);
    let flags = agreed.fold(0, |flags, (_, offer)| flags | offer);
    let timestamps = match flags & OFFER_TIMESTAMPS {
        0 => 0,
        _ => TIMESTAMPS_LEN,
    };
    Some(Agreed {
        flags,
        // The lower half is for sending, and so the peer's own.
        window_scale: match flags & OFFER_WINDOW_SCALE {
            0 => 0,
            _ => (scales & 0xf).min(14),
        },
        mss: u16::try_from(segment + timestamps).unwrap_or(u16::MAX),
    })
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
    fn a_connections_end_tells_what_it_agreed_to() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = listener.local_addr().unwrap();
        let client = TcpStream::connect(peer).unwrap();
        let local = client.local_addr().unwrap();
        let agreed = Sockets::open().unwrap().agreed(local, peer).unwrap();
        let agreed = agreed.unwrap();
        // As Linux is set by default, and the tests' machines are.
        let most = OFFER_TIMESTAMPS | OFFER_SACK | OFFER_WINDOW_SCALE;
        assert_eq!(agreed.flags & most, most, "{agreed:?}");
        assert!((1..=14).contains(&agreed.window_scale), "{agreed:?}");
        assert!(agreed.mss > 1460, "{agreed:?}");
        drop(listener);
        let nobody = SocketAddr::new(peer.ip(), 1);
        assert_eq!(
            Sockets::open().unwrap().agreed(local, nobody).unwrap(),
            None
        );
    }

    #[test]
    fn this_kernel_can_end_sockets() {
        assert!(Sockets::open().unwrap().can_destroy().unwrap());
    }
}
