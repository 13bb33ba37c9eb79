//! Warnings of services that nobody can be admitted to as things are.

use crate::{
    config::Service,
    netlink::listener::{Listener, listeners},
};

/// Services named in one warning.
const NAMED_MAX: usize = 8;

/// Looks for the services' servers in this network namespace, and warns of services without one,
/// or with one that the kernel cannot hand a socket made from a cookie.
pub fn warn(services: &[Service]) {
    match listeners() {
        Ok(listeners) => {
            for warning in warnings(services, &listeners) {
                log::warn!("{warning}");
            }
        }
        // Nothing depends on it but the warnings.
        Err(error) => {
            log::warn!("cannot tell whether anybody listens on the services: {error:#}");
        }
    }
}

fn warnings(services: &[Service], listeners: &[Listener]) -> Vec<String> {
    let (mut alone, mut multipath) = (Vec::new(), Vec::new());
    for service in services {
        let mut serving = listeners
            .iter()
            .filter(|listener| listener.serves(service.address))
            .peekable();
        if serving.peek().is_none() {
            alone.push(service.address.to_string());
        } else if serving.any(|listener| listener.mptcp) {
            multipath.push(service.address.to_string());
        }
    }
    let mut warnings = Vec::new();
    if !alone.is_empty() {
        warnings.push(format!(
            "nobody listens on {} in this network namespace yet: until somebody does, clients are \
             refused",
            first(&alone)
        ));
    }
    if !multipath.is_empty() {
        warnings.push(format!(
            "the server on {} listens with Multipath TCP, to which the kernel admits no client by \
             levee's cookies: have it listen with plain TCP (Go servers: GODEBUG=multipathtcp=0)",
            first(&multipath)
        ));
    }
    warnings
}

/// The first few of some names, and how many more there are.
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

    #[test]
    fn services_that_can_be_served_are_not_mentioned() {
        let listeners = [listener(1, false), listener(2, false)];
        assert!(warnings(&services(2), &listeners).is_empty());
    }

    #[test]
    fn each_kind_of_trouble_is_one_warning() {
        let listeners = [listener(2, true), listener(3, true)];
        let found = warnings(&services(3), &listeners);
        assert_eq!(found.len(), 2);
        assert!(
            found[0].starts_with("nobody listens on 192.0.2.1:1 in this"),
            "{found:?}"
        );
        let text = "the server on 192.0.2.1:2, 192.0.2.1:3 listens with Multipath TCP";
        assert!(found[1].starts_with(text), "{found:?}");
    }

    #[test]
    fn long_lists_are_cut() {
        let found = warnings(&services(100), &[]);
        assert!(
            found[0].contains("192.0.2.1:8 and 92 more in this"),
            "{found:?}"
        );
    }
}
