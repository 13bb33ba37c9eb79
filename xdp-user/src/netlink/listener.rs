//! Listening TCP sockets: whether a protected service has one, and whether the kernel can hand it
//! the sockets it makes from levee's cookies.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};
use netlink_packet_core::{Nla as _, NlaBuffer};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

/// `INET_DIAG_ULP_INFO` of linux/inet_diag.h: the upper-layer protocol of the socket.
const INET_DIAG_ULP_INFO: u16 = 19;

/// `INET_ULP_INFO_NAME` of linux/inet_diag.h.
const INET_ULP_INFO_NAME: u16 = 1;

/// A listening TCP socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Address and port it is bound to; may be unspecified.
    pub address: SocketAddr,
    /// Whether an unspecified IPv6 address excludes IPv4.
    pub v6_only: bool,
    /// Whether it belongs to a Multipath TCP socket.
    pub mptcp: bool,
}

/// The listening TCP sockets of this network namespace.
///
/// Whether a socket is of Multipath TCP is told only to who has CAP_NET_ADMIN.
///
/// # Errors
/// Fails when the kernel does not answer, as without `CONFIG_INET_DIAG`.
pub fn listeners() -> Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    for (family, socket_id) in [
        (AF_INET, SocketId::new_v4()),
        (AF_INET6, SocketId::new_v6()),
    ] {
        let request = SockDiagMessage::InetRequest(InetRequest {
            family,
            protocol: IPPROTO_TCP,
            // The kernel adds the upper-layer protocol to this.
            extensions: ExtensionFlags::INFO,
            states: StateFlags::LISTEN,
            socket_id,
        });
        let answers = super::dump(NETLINK_SOCK_DIAG, request).context("cannot list listeners")?;
        listeners.extend(answers.iter().filter_map(|answer| match answer {
            SockDiagMessage::InetResponse(response) => Some(Listener::from(&**response)),
            _ => None,
        }));
    }
    Ok(listeners)
}

impl From<&InetResponse> for Listener {
    fn from(response: &InetResponse) -> Self {
        let id = &response.header.socket_id;
        let mut listener = Self {
            address: SocketAddr::new(id.source_address, id.source_port),
            v6_only: false,
            mptcp: false,
        };
        for attribute in &response.nlas {
            match attribute {
                Nla::SkV6Only(value) => listener.v6_only = *value,
                Nla::Other(other) if other.kind() == INET_DIAG_ULP_INFO => {
                    let mut value = vec![0; other.value_len()];
                    other.emit_value(&mut value);
                    listener.mptcp = is_mptcp(&value);
                }
                _ => {}
            }
        }
        listener
    }
}

/// Whether the nested attributes of `INET_DIAG_ULP_INFO` name Multipath TCP. The name comes first.
fn is_mptcp(ulp_info: &[u8]) -> bool {
    match NlaBuffer::new_checked(ulp_info) {
        Ok(name) => name.kind() == INET_ULP_INFO_NAME && name.value() == b"mptcp\0",
        Err(_) => false,
    }
}

impl Listener {
    /// Whether it accepts connections to `service`.
    #[must_use]
    pub fn serves(&self, service: SocketAddr) -> bool {
        let any = match (self.address.ip(), service.ip()) {
            (IpAddr::V6(bound), IpAddr::V4(_)) if !self.v6_only => bound.is_unspecified(),
            (bound, ip) => bound.is_unspecified() && bound.is_ipv4() == ip.is_ipv4(),
        };
        self.address.port() == service.port()
            && (any || self.address.ip().to_canonical() == service.ip())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn listener(address: &str, v6_only: bool) -> Listener {
        Listener {
            address: address.parse().unwrap(),
            v6_only,
            mptcp: false,
        }
    }

    #[test]
    fn wildcards_serve_every_address_of_their_family() {
        let v4: SocketAddr = "192.0.2.1:80".parse().unwrap();
        let v6: SocketAddr = "[2001:db8::1]:80".parse().unwrap();
        let serves = |bound, only, service| listener(bound, only).serves(service);
        assert!(serves("192.0.2.1:80", false, v4));
        assert!(serves("0.0.0.0:80", false, v4));
        assert!(!serves("0.0.0.0:80", false, v6));
        assert!(serves("[::]:80", false, v4));
        assert!(serves("[::]:80", false, v6));
        assert!(!serves("[::]:80", true, v4));
        assert!(serves("[::ffff:192.0.2.1]:80", false, v4));
        assert!(!serves("192.0.2.2:80", false, v4));
        assert!(!serves("0.0.0.0:81", false, v4));
    }

    #[test]
    fn a_listener_of_this_process_is_found() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let found = listeners().unwrap();
        let found = found.iter().find(|listener| listener.address == address);
        assert!(!found.unwrap().mptcp);
    }

    #[test]
    fn the_protocols_name_is_read() {
        assert!(is_mptcp(b"\x0a\0\x01\0mptcp\0\0\0"));
        assert!(!is_mptcp(b"\x08\0\x01\0tls\0"));
        assert!(!is_mptcp(b"\x0a\0"));
        assert!(!is_mptcp(b""));
    }
}
