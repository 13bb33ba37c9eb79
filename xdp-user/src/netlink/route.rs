//! Routes: whether an address is this machine's own.

use std::net::IpAddr;

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAttribute, RouteMessage, RouteType},
};
use netlink_sys::protocols::NETLINK_ROUTE;

/// Whether this network namespace takes packets to `ip` as its own.
#[must_use]
pub fn is_local(ip: IpAddr) -> bool {
    let mut request = RouteMessage::default();
    (
        request.header.address_family,
        request.header.destination_prefix_length,
    ) = match ip {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    request
        .attributes
        .push(RouteAttribute::Destination(ip.into()));
    let answer = super::get(NETLINK_ROUTE, RouteNetlinkMessage::GetRoute(request));
    // Without any route to it the kernel answers with an error.
    match answer {
        Ok(RouteNetlinkMessage::NewRoute(route)) => route.header.kind == RouteType::Local,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_local_and_documentation_is_not() {
        for (ip, expected) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("192.0.2.77", false),
            ("2001:db8::77", false),
        ] {
            assert_eq!(is_local(ip.parse().unwrap()), expected, "{ip}");
        }
    }
}
