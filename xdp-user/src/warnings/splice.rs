//! Warnings of what keeps spliced connections from working as they are configured.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use crate::{
    config::{Attach, Config, Nat, Service, SpliceService, Target},
    netlink::{
        link::{Link, links},
        route::{NextHop, is_local, next_hop},
    },
};

/// What on this machine stands in the way; nothing without a service in `splice` mode.
#[must_use]
pub fn warnings(config: &Config) -> Vec<String> {
    let spliced = || {
        let services = config.services.iter();
        services.filter_map(|service| Some((service, &**service.splice()?)))
    };
    if spliced().next().is_none() {
        return Vec::new();
    }
    let mut warnings = Vec::new();
    let links = links().unwrap_or_default();
    for (service, splice) in spliced() {
        let routes = routes(splice);
        warnings.extend(off_path(service, &routes, config, &links));
        warnings.extend(pool(service, splice, &routes));
    }
    warnings.extend(forwarding(config, Path::new("/proc/sys/net")));
    warnings.extend(generic(config));
    warnings
}

/// The ways to the backends by address, as far as there are any.
fn routes(splice: &SpliceService) -> BTreeMap<SocketAddr, NextHop> {
    let backends = splice.common.backends.iter();
    let addresses = backends.filter_map(|backend| match backend.target {
        Target::Address(address) => Some(address),
        Target::Name { .. } => None,
    });
    addresses
        .filter_map(|address| Some((address, next_hop(address.ip()).ok()?)))
        .collect()
}

/// Backends that levee's interfaces do not lead to.
fn off_path(
    service: &Service,
    routes: &BTreeMap<SocketAddr, NextHop>,
    config: &Config,
    links: &[Link],
) -> Vec<String> {
    let by_index = |index: u32| links.iter().find(|link| link.index == index);
    let is_attached = |link: &Link| {
        let mut interfaces = config.interfaces.iter();
        interfaces.any(|interface| interface.name == link.name)
    };
    let trouble = |(address, route): (&SocketAddr, &NextHop)| {
        if route.is_local {
            return Some(format!(
                "service {}: the backend {address} is this machine; protect a server here with mode \
                 = \"host\"",
                service.name
            ));
        }
        let exit = by_index(route.ifindex)?;
        let mut link = exit;
        while !is_attached(link) {
            let Some(below) = link.vlan_of.and_then(by_index) else {
                return Some(format!(
                    "service {}: the way to the backend {address} leads out of {}, which is no \
                     [[interface]]: its connections cannot be forwarded",
                    service.name, exit.name
                ));
            };
            link = below;
        }
        None
    };
    routes.iter().filter_map(trouble).collect()
}

/// With a pool, answers have to come to this machine; and its own connections must not get into
/// the way of those that it forwards.
fn pool(
    service: &Service,
    splice: &SpliceService,
    routes: &BTreeMap<SocketAddr, NextHop>,
) -> Vec<String> {
    let name = &service.name;
    let Nat::Full(pool) = &splice.nat else {
        return Vec::new();
    };
    let mut warnings = Vec::new();
    let foreign: Vec<_> = pool.iter().filter(|ip| !is_local(**ip)).map(text).collect();
    if !foreign.is_empty() {
        warnings.push(format!(
            "service {name}: these addresses of its nat_pool are not assigned: {}; backends find no \
             way back unless their routes lead here",
            super::first(&foreign)
        ));
    }
    let sources = routes.values().filter_map(|route| route.source);
    let shared = sources.filter(|source| pool.contains(source));
    let mut shared: Vec<_> = shared.map(|ip| text(&ip)).collect();
    shared.sort_unstable();
    shared.dedup();
    if !shared.is_empty() {
        warnings.push(format!(
            "service {name}: this machine connects to the backends from {} as well, which is in \
             nat_pool: health checks and forwarded connections may meet on a port. Use addresses \
             that nothing else connects from",
            super::first(&shared)
        ));
    }
    warnings
}

fn text(ip: &IpAddr) -> String {
    ip.to_string()
}

/// The data path asks the kernel for routes, which has none to tell where it does not forward.
fn forwarding(config: &Config, root: &Path) -> Vec<String> {
    let off = |name: &str| {
        let text = fs::read_to_string(root.join(name));
        text.is_ok_and(|text| text.trim() == "0")
    };
    let spliced = |is_ipv6: bool| {
        let mut services = config.services.iter();
        services.any(|s| s.splice().is_some() && s.address.is_ipv6() == is_ipv6)
    };
    [
        (false, "ipv4/ip_forward", "net.ipv4.ip_forward"),
        (
            true,
            "ipv6/conf/all/forwarding",
            "net.ipv6.conf.all.forwarding",
        ),
    ]
    .into_iter()
    .filter(|(is_ipv6, path, _)| spliced(*is_ipv6) && off(path))
    .map(|(_, _, name)| {
        format!(
            "{name} is 0: other traffic of the backends is not forwarded, and the data path learns \
             of new routes and neighbours up to a second late. `sysctl -w {name}=1`"
        )
    })
    .collect()
}

fn generic(config: &Config) -> Option<String> {
    let generic = config
        .interfaces
        .iter()
        .filter(|i| i.attach == Attach::Generic);
    let names: Vec<_> = generic.map(|interface| interface.name.as_str()).collect();
    (!names.is_empty()).then(|| in_generic_mode(super::first(&names)))
}

/// What spliced connections have to expect of an interface in generic mode.
#[must_use]
pub fn in_generic_mode(names: impl std::fmt::Display) -> String {
    format!(
        "{names}: XDP in generic mode forwards spliced connections several times slower than the \
         driver could, and sees packets only after they were joined, which no link takes: bulk data \
         stalls unless that is off (ethtool -K IF gro off lro off; of a veth, at its other end, \
         ethtool -K IF tso off gso off)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(keys: &str, mode: &str) -> Config {
        let text = format!(
            "[[interface]]\nname = \"eth0\"\nmode = \"{mode}\"\n[[service]]\nname = \"db\"\naddress \
             = \"192.0.2.1:80\"\nmode = \"splice\"\n{keys}\n[[service.backend]]\naddress = \
             \"10.0.0.1:80\"\n"
        );
        Config::parse("test", &text).unwrap()
    }

    fn route(ifindex: u32) -> BTreeMap<SocketAddr, NextHop> {
        let address: SocketAddr = "10.0.0.1:80".parse().unwrap();
        let hop = NextHop {
            is_local: ifindex == 1,
            ifindex,
            neighbour: address.ip(),
            source: Some("10.0.0.9".parse().unwrap()),
        };
        BTreeMap::from([(address, hop)])
    }

    fn link(index: u32, name: &str, vlan_of: Option<u32>) -> Link {
        Link {
            index,
            name: name.into(),
            mtu: 1500,
            ethernet: true,
            up: true,
            loopback: false,
            xdp: Vec::new(),
            peer: None,
            vlan_of,
            vlan_tag: 0,
            mac: [0; 6],
        }
    }

    #[test]
    fn backends_have_to_be_behind_an_interface_of_levees() {
        let config = config("", "auto");
        let links = [
            link(1, "lo", None),
            link(2, "eth0", None),
            link(3, "eth0.7", Some(2)),
            link(4, "br0", None),
        ];
        let found = |index| off_path(&config.services[0], &route(index), &config, &links);
        assert_eq!(found(2), [""; 0]);
        assert_eq!(found(3), [""; 0]);
        assert!(found(4)[0].contains("leads out of br0"), "{:?}", found(4));
        assert!(found(1)[0].contains("is this machine"), "{:?}", found(1));
    }

    #[test]
    fn a_pool_is_for_forwarded_connections_only() {
        let keys = "nat = \"full\"\nnat_pool = [\"10.0.0.9\"]";
        let config = config(keys, "auto");
        let service = &config.services[0];
        let found = pool(service, service.splice().unwrap(), &route(2));
        assert!(found[0].contains("are not assigned: 10.0.0.9"), "{found:?}");
        assert!(found[1].contains("may meet on a port"), "{found:?}");
    }

    #[test]
    fn settings_that_matter_are_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("ipv4")).unwrap();
        fs::write(dir.path().join("ipv4/ip_forward"), "0\n").unwrap();
        let found = forwarding(&config("", "auto"), dir.path());
        assert_eq!(found.len(), 1);
        assert!(
            found[0].starts_with("net.ipv4.ip_forward is 0"),
            "{found:?}"
        );
        assert_eq!(generic(&config("", "auto")), None);
        assert!(
            generic(&config("", "generic"))
                .unwrap()
                .starts_with("eth0: XDP in generic mode")
        );
    }

    #[test]
    fn a_machine_without_spliced_services_is_not_warned() {
        let text = "[[interface]]\nname = \"eth0\"\n[[service]]\naddress = \"192.0.2.1:80\"\n";
        let config = Config::parse("test", text).unwrap();
        assert_eq!(warnings(&config), [""; 0]);
    }
}
