//! Warnings of services that no client can reach as things are. None of it keeps levee from
//! starting: servers and addresses may come later.

use std::net::IpAddr;

use crate::{
    config::{Config, Service},
    netlink::{
        link::Link,
        listener::{Listener, listeners},
        route::is_local,
    },
};

pub mod proxy;
pub mod splice;

/// Services named in one warning.
const NAMED_MAX: usize = 8;

/// Logs everything that keeps clients out or the proxy from what it is configured for.
pub fn log_all(config: &Config) {
    log_unreachable(&config.services);
    for warning in proxy::warnings(config)
        .into_iter()
        .chain(splice::warnings(config))
    {
        log::warn!("{warning}");
    }
}

/// What keeps clients from coming in through an interface.
#[must_use]
pub fn of_link(link: &Link) -> Vec<String> {
    let name = &link.name;
    let mut warnings = Vec::new();
    if !link.up {
        warnings.push(format!(
            "{name} is down: nothing comes in there until `ip link set {name} up`"
        ));
    }
    if link.loopback {
        warnings.push(format!(
            "{name} is the loopback interface: no client of another machine comes in there. Name \
             the interface that they come in through (`ip route get` shows it for an address)"
        ));
    }
    warnings
}

/// Looks for the services' addresses and servers in this network namespace, and logs what keeps
/// clients from them.
fn log_unreachable(services: &[Service]) {
    match listeners() {
        Ok(listeners) => {
            for warning in unreachable(services, &listeners, is_local) {
                log::warn!("{warning}");
            }
        }
        // Nothing depends on it but the warnings.
        Err(error) => {
            log::warn!("cannot tell whether anybody listens on the services: {error:#}");
        }
    }
}

fn unreachable(
    services: &[Service],
    listeners: &[Listener],
    is_local: impl Fn(IpAddr) -> bool,
) -> Vec<String> {
    let (mut foreign, mut alone, mut multipath) = (Vec::new(), Vec::new(), Vec::new());
    // What is spliced needs neither: packets are taken before the kernel looks for an address.
    for service in services.iter().filter(|s| s.splice().is_none()) {
        let mut serving = listeners
            .iter()
            .filter(|listener| listener.serves(service.address))
            .peekable();
        let address = service.address.to_string();
        if !is_local(service.address.ip()) {
            foreign.push(address);
        } else if serving.peek().is_none() {
            alone.push(address);
        } else if serving.any(|listener| listener.mptcp) {
            multipath.push(address);
        }
    }
    let troubles = [
        (
            foreign,
            "is no address of this machine (`ip addr`, in this network namespace): its clients get \
             a SYN-ACK, but no connection",
        ),
        (
            alone,
            "has no server listening in this network namespace yet: until it has, its clients are \
             refused",
        ),
        (
            multipath,
            "has a server that listens with Multipath TCP, to which the kernel admits no client by \
             levee's cookies: have it listen with plain TCP (Go servers: GODEBUG=multipathtcp=0)",
        ),
    ];
    troubles
        .into_iter()
        .filter(|(services, _)| !services.is_empty())
        .map(|(services, trouble)| match services.as_slice() {
            [service] => format!("{service} {trouble}"),
            services => format!("each of {} {trouble}", first(services)),
        })
        .collect()
}

/// The first few of some names, and how many more there are.
#[must_use]
pub fn first<T: AsRef<str>>(names: &[T]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMED_MAX).map(AsRef::as_ref).collect();
    match names.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;

    fn services(count: u16) -> Vec<Service> {
        let flags = Flags {
            interfaces: vec!["eth0".into()],
            protect: (1..=count)
                .map(|port| format!("192.0.2.1:{port}"))
                .collect(),
            ..Flags::default()
        };
        flags.into_config().unwrap().services
    }

    fn listener(port: u16, mptcp: bool) -> Listener {
        Listener {
            address: ([0, 0, 0, 0], port).into(),
            v6_only: false,
            mptcp,
        }
    }

    fn warnings(count: u16, listeners: &[Listener], local: bool) -> Vec<String> {
        unreachable(&services(count), listeners, |_| local)
    }

    #[test]
    fn services_that_can_be_reached_are_not_mentioned() {
        let listeners = [listener(1, false), listener(2, false)];
        assert!(warnings(2, &listeners, true).is_empty());
    }

    #[test]
    fn each_kind_of_trouble_is_one_warning() {
        let listeners = [listener(2, true), listener(3, true)];
        let found = warnings(3, &listeners, true);
        assert_eq!(found.len(), 2);
        assert!(
            found[0].starts_with("192.0.2.1:1 has no server"),
            "{found:?}"
        );
        let text = "each of 192.0.2.1:2, 192.0.2.1:3 has a server that listens with Multipath";
        assert!(found[1].starts_with(text), "{found:?}");
        let found = warnings(1, &listeners, false);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].starts_with("192.0.2.1:1 is no address of this"),
            "{found:?}"
        );
    }

    #[test]
    fn interfaces_that_no_client_comes_in_through_are_named() {
        let links = crate::netlink::link::links().unwrap();
        let lo = links.into_iter().find(|link| link.name == "lo").unwrap();
        let up = Link { up: true, ..lo };
        assert!(of_link(&up)[0].starts_with("lo is the loopback interface: no client of"));
        let elsewhere = Link {
            loopback: false,
            ..up
        };
        assert_eq!(of_link(&elsewhere), [""; 0]);
        let down = Link {
            up: false,
            ..elsewhere
        };
        assert!(of_link(&down)[0].starts_with("lo is down: nothing comes in"));
    }

    #[test]
    fn long_lists_are_cut() {
        let found = warnings(100, &[], true);
        assert!(
            found[0].contains("192.0.2.1:8 and 92 more has no"),
            "{found:?}"
        );
    }
}
