//! The tables `[[service.backend]]`.

use std::{collections::HashMap, net::SocketAddr, ops::Range};

use toml::Spanned;

use super::{
    super::{
        BACKENDS_MAX, Backend, Mode, Service, Target,
        error::Problems,
        field::{self, ServiceMode, refusal},
        raw, target,
    },
    Place,
    proxy::CONNECTIONS_RANGE,
    read::{integer, missing, place_of, string},
    unique,
};

/// The addresses of a service's backends, with their places.
pub(super) type Addresses = Vec<(Place, SocketAddr)>;

/// The addresses of all backends, with their places and the modes of their services.
pub(super) type AllAddresses = Vec<(Place, SocketAddr, ServiceMode)>;

/// Refuses backends that are services themselves. By the proxy, a connection would go round until
/// nothing is left; and what the data path forwards does not come back in to be served here.
pub(super) fn refuse_loops(
    problems: &mut Problems<'_>,
    backends: AllAddresses,
    services: &[Service],
) {
    let by_address: HashMap<_, _> = services.iter().map(|s| (s.address, s)).collect();
    for (place, address, of) in backends {
        // A zone makes no other address of one that a service can have.
        let without_zone = SocketAddr::new(address.ip(), address.port());
        let Some(service) = by_address.get(&without_zone) else {
            continue;
        };
        let mode = match service.mode {
            Mode::Host(_) if of == ServiceMode::Proxy => continue,
            Mode::Host(_) => ServiceMode::Host,
            Mode::Proxy(_) => ServiceMode::Proxy,
            Mode::Splice(_) => ServiceMode::Splice,
        };
        let (name, mode) = (&service.name, mode.label());
        let found = format!("\"{address}\", the address of the service {name} in {mode} mode");
        let message = refusal(found, "the address of a server");
        problems.add(place, "service.backend.address", message);
    }
}

/// Refuses backends of another family than the service's, with `why` they cannot be.
pub(super) fn same_family(
    problems: &mut Problems<'_>,
    service: SocketAddr,
    backends: &Addresses,
    why: &str,
) {
    for (place, address) in backends {
        if address.is_ipv4() != service.is_ipv4() {
            let found = format!("\"{address}\" with {why}");
            let message = refusal(found, "an address of the family of the service's");
            problems.add(place.clone(), "service.backend.address", message);
        }
    }
}

pub(super) fn read(
    problems: &mut Problems<'_>,
    raw: Vec<Spanned<raw::Backend>>,
    table: &Range<usize>,
) -> (Vec<Backend>, Addresses) {
    if !(1..=BACKENDS_MAX).contains(&raw.len()) {
        let allowed = format!("1 to {BACKENDS_MAX}, each as [[service.backend]]");
        let message = refusal(format_args!("{} backends", raw.len()), &allowed);
        problems.add(Some(table.clone()), "service.backend", message);
    }
    let (mut names, mut targets) = (HashMap::new(), HashMap::new());
    let (mut backends, mut addresses) = (Vec::new(), Vec::new());
    for raw in raw {
        let Some((place, backend)) = backend(problems, raw) else {
            continue;
        };
        let target = backend.target.to_string();
        let key = "service.backend.address";
        if unique(problems, &mut targets, key, &target, &place) {
            let key = "service.backend.name";
            unique(problems, &mut names, key, &backend.name, &place);
        }
        if let Target::Address(address) = backend.target {
            addresses.push((place, address));
        }
        backends.push(backend);
    }
    (backends, addresses)
}

fn backend(problems: &mut Problems<'_>, raw: Spanned<raw::Backend>) -> Option<(Place, Backend)> {
    let table = raw.span();
    let raw = raw.into_inner();
    let key = "service.backend.address";
    let place = place_of(&raw.address);
    if raw.address.is_none() {
        missing(problems, table, key, target::BACKEND_ALLOWED);
    }
    let target = string(problems, key, raw.address, target::backend);
    let key = "service.backend.name";
    let name = string(problems, key, raw.name, field::service_name);
    let key = "service.backend.weight";
    let weight = integer(problems, key, raw.weight, 0..=256).unwrap_or(1);
    let key = "service.backend.connections_max";
    let connections_max = integer(problems, key, raw.connections_max, CONNECTIONS_RANGE);
    let target = target?;
    let backend = Backend {
        name: name.unwrap_or_else(|| target.to_string()),
        target,
        weight,
        connections_max: connections_max.unwrap_or(0),
    };
    Some((place, backend))
}
