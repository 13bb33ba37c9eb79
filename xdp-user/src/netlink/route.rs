//! Routes: the way to an address, and whether it is this machine's own.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia},
    rule::{RuleAttribute, RuleMessage},
};
use netlink_sys::protocols::NETLINK_ROUTE;

/// The first step of the way to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Whether the address is this machine's own, so that there is no way to it.
    pub is_local: bool,
    /// Index of the interface that packets leave by.
    pub ifindex: u32,
    /// The neighbour that they are handed to: a gateway, or the address itself.
    pub neighbour: IpAddr,
    /// The address that this machine sends them from unless told otherwise.
    pub source: Option<IpAddr>,
}

/// Asks this network namespace for the way to `ip`.
///
/// # Errors
/// Fails when there is none, or the kernel does not answer.
pub fn next_hop(ip: IpAddr) -> Result<NextHop> {
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
    match answer.with_context(|| format!("no route to {ip}"))? {
        RouteNetlinkMessage::NewRoute(route) => read_next_hop(&route, ip),
        other => bail!("the kernel answers another question: {other:?}"),
    }
}

fn read_next_hop(route: &RouteMessage, ip: IpAddr) -> Result<NextHop> {
    let mut hop = NextHop {
        is_local: route.header.kind == RouteType::Local,
        ifindex: 0,
        neighbour: ip,
        source: None,
    };
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(ifindex) => hop.ifindex = *ifindex,
            RouteAttribute::Gateway(address) => {
                hop.neighbour = address_of(address).unwrap_or(ip);
            }
            // The gateway of another family (RFC 5549).
            RouteAttribute::Via(RouteVia::Inet(v4)) => hop.neighbour = (*v4).into(),
            RouteAttribute::Via(RouteVia::Inet6(v6)) => hop.neighbour = (*v6).into(),
            RouteAttribute::PrefSource(address) => hop.source = address_of(address),
            _ => {}
        }
    }
    let kind = route.header.kind;
    ensure!(
        hop.ifindex != 0 && matches!(kind, RouteType::Local | RouteType::Unicast),
        "the route to {ip} leads nowhere: it is of type {kind:?}"
    );
    Ok(hop)
}

const fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

/// Whether this network namespace takes packets to `ip` as its own.
#[must_use]
pub fn is_local(ip: IpAddr) -> bool {
    next_hop(ip).is_ok_and(|hop| hop.is_local)
}

/// Whether some rule sends packets with a firewall mark to a routing table that takes packets to
/// any address as this machine's own, as transparent proxies need it.
///
/// # Errors
/// Fails when the kernel does not answer.
pub fn takes_marked_as_local(ipv6: bool) -> Result<bool> {
    let family = if ipv6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    };
    let mut request = RuleMessage::default();
    request.header.family = family;
    let rules = super::dump(NETLINK_ROUTE, RouteNetlinkMessage::GetRule(request));
    let tables: Vec<_> = rules
        .context("cannot list routing rules")?
        .iter()
        .filter_map(marked_table)
        .collect();
    let mut request = RouteMessage::default();
    request.header.address_family = family;
    let routes = super::dump(NETLINK_ROUTE, RouteNetlinkMessage::GetRoute(request));
    let routes = routes.context("cannot list routes")?;
    Ok(routes
        .iter()
        .filter_map(local_default_table)
        .any(|table| tables.contains(&table)))
}

/// The table that a rule sends packets with a mark to.
fn marked_table(message: &RouteNetlinkMessage) -> Option<u32> {
    let RouteNetlinkMessage::NewRule(rule) = message else {
        return None;
    };
    let has_mark =
        |attribute: &RuleAttribute| matches!(attribute, RuleAttribute::FwMark(mark) if *mark != 0);
    rule.attributes.iter().find(|a| has_mark(a))?;
    let table = rule
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RuleAttribute::Table(table) => Some(*table),
            _ => None,
        });
    Some(table.unwrap_or_else(|| rule.header.table.into()))
}

/// The table of a route that takes packets to any address as this machine's own.
fn local_default_table(message: &RouteNetlinkMessage) -> Option<u32> {
    let RouteNetlinkMessage::NewRoute(route) = message else {
        return None;
    };
    let header = &route.header;
    if header.kind != RouteType::Local || header.destination_prefix_length != 0 {
        return None;
    }
    let table = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        });
    Some(table.unwrap_or_else(|| header.table.into()))
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

    #[test]
    fn a_route_names_interface_neighbour_and_source() {
        let ip: IpAddr = "192.0.2.77".parse().unwrap();
        let mut route = RouteMessage::default();
        route.header.kind = RouteType::Unicast;
        assert!(read_next_hop(&route, ip).is_err(), "no interface");
        route.attributes = vec![
            RouteAttribute::Oif(7),
            RouteAttribute::PrefSource(RouteAddress::Inet([192, 0, 2, 1].into())),
        ];
        let direct = NextHop {
            is_local: false,
            ifindex: 7,
            neighbour: ip,
            source: Some([192, 0, 2, 1].into()),
        };
        assert_eq!(read_next_hop(&route, ip).unwrap(), direct);
        let gateway = RouteAddress::Inet([192, 0, 2, 9].into());
        route.attributes.push(RouteAttribute::Gateway(gateway));
        let neighbour = IpAddr::from([192, 0, 2, 9]);
        let expected = NextHop {
            neighbour,
            ..direct
        };
        assert_eq!(read_next_hop(&route, ip).unwrap(), expected);
        route.header.kind = RouteType::BlackHole;
        assert!(read_next_hop(&route, ip).is_err(), "a black hole");
    }

    #[test]
    fn only_marked_packets_of_a_local_default_route_count() {
        let rule = |attributes: &[RuleAttribute]| {
            let mut rule = RuleMessage::default();
            rule.header.table = 254;
            rule.attributes = attributes.to_vec();
            marked_table(&RouteNetlinkMessage::NewRule(rule))
        };
        let mark = RuleAttribute::FwMark(1);
        assert_eq!(
            rule(&[mark.clone(), RuleAttribute::Table(1000)]),
            Some(1000)
        );
        assert_eq!(rule(&[mark]), Some(254));
        assert_eq!(rule(&[RuleAttribute::Table(1000)]), None);
        let route = |kind, len| {
            let mut route = RouteMessage::default();
            route.header.kind = kind;
            route.header.destination_prefix_length = len;
            route.attributes.push(RouteAttribute::Table(1000));
            local_default_table(&RouteNetlinkMessage::NewRoute(route))
        };
        assert_eq!(route(RouteType::Local, 0), Some(1000));
        assert_eq!(route(RouteType::Local, 8), None);
        assert_eq!(route(RouteType::Unicast, 0), None);
    }

    #[test]
    fn the_kernel_lists_rules_and_routes() {
        for ipv6 in [false, true] {
            takes_marked_as_local(ipv6).unwrap();
        }
    }
}
