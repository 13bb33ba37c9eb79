//! Routes: whether an address is this machine's own.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAttribute, RouteMessage, RouteType},
    rule::{RuleAttribute, RuleMessage},
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
