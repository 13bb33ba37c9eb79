//! What is configured for services in `splice` mode, and for all of them.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    ops::Range,
    sync::Arc,
};

use xdp_common::splice::flow::TARGETS_MAX;

use super::{
    super::{
        FLOWS_MAX, NAT_POOL_MAX, Nat, Service, SpliceGlobals, SpliceService,
        error::Problems,
        field::refusal,
        raw,
        splice::{CLOSED_MS, TIMEOUTS},
        target, units,
    },
    Place,
    backends::{self, Addresses},
    limits::milliseconds,
    proxy::{self, LONGEST_S, seconds},
    read::{integer, list, place_of, string},
};

/// Connections that a table may be made for.
const FLOWS_RANGE: std::ops::RangeInclusive<i64> = 64..=FLOWS_MAX as i64;

/// The table `[splice]`.
pub(super) fn globals(problems: &mut Problems<'_>, raw: Option<raw::Splice>) -> SpliceGlobals {
    let raw = raw.unwrap_or_default();
    let flows_max = integer(problems, "splice.flows_max", raw.flows_max, FLOWS_RANGE);
    let default = SpliceGlobals::default();
    SpliceGlobals {
        flows_max: flows_max.unwrap_or(default.flows_max),
    }
}

/// A service's keys for `splice` mode, and its backends' addresses. `address` is its own, if that
/// is valid.
pub(super) fn service(
    problems: &mut Problems<'_>,
    mut raw: raw::Service,
    address: Option<SocketAddr>,
    table: &Range<usize>,
) -> (SpliceService, Addresses) {
    let nat = nat(problems, &mut raw, address);
    let mut timeout = |key, field| {
        let read = string(problems, key, field, |text| {
            units::duration(text, &seconds(1, LONGEST_S))
        });
        read.map_or(CLOSED_MS, milliseconds)
    };
    let last_ack_ms = timeout("service.last_ack_timeout", raw.last_ack_timeout.take());
    let time_wait_ms = timeout("service.time_wait_timeout", raw.time_wait_timeout.take());
    let (mut common, addresses) = proxy::service(problems, raw, address, table, TIMEOUTS);
    common.spliced = true;
    if let Some(address) = address {
        let why = "mode = \"splice\"";
        backends::same_family(problems, address, &addresses, why);
    }
    let service = SpliceService {
        common: Arc::new(common),
        nat,
        last_ack_ms,
        time_wait_ms,
    };
    (service, addresses)
}

/// Where packets to backends come from.
fn nat(problems: &mut Problems<'_>, raw: &mut raw::Service, address: Option<SocketAddr>) -> Nat {
    let places = [&raw.nat, &raw.nat_pool].map(place_of);
    let full = string(problems, "service.nat", raw.nat.take(), target::nat_is_full);
    let key = "service.nat_pool";
    let pool = raw.nat_pool.take();
    let pool = list(problems, key, pool, NAT_POOL_MAX, target::source);
    let [nat, pool_place] = places;
    match (full, pool) {
        (Some(true), Some(pool)) => {
            pool_is_sound(problems, &pool, address, pool_place);
            Nat::Full(pool)
        }
        (Some(true), None) if pool_place.is_none() => {
            let message = refusal("\"full\" without nat_pool", "\"full\" with a nat_pool");
            problems.add(nat, "service.nat", message);
            Nat::Dnat
        }
        (_, Some(_)) if full != Some(true) => {
            let message = refusal(
                "addresses without nat = \"full\"",
                "only with nat = \"full\"",
            );
            problems.add(pool_place, key, message);
            Nat::Dnat
        }
        _ => Nat::Dnat,
    }
}

/// A pool holds addresses of the service's family, each once, and none that is the service's own:
/// its packets could not be told from those of clients.
fn pool_is_sound(
    problems: &mut Problems<'_>,
    pool: &[IpAddr],
    address: Option<SocketAddr>,
    place: Place,
) {
    let distinct: HashSet<_> = pool.iter().collect();
    let foreign = address.and_then(|service| {
        let mut pool = pool.iter();
        pool.find(|ip| ip.is_ipv4() != service.is_ipv4() || **ip == service.ip())
    });
    let found = match foreign {
        _ if pool.is_empty() => "no address".into(),
        _ if distinct.len() < pool.len() => "an address a second time".into(),
        Some(ip) => format!("\"{ip}\""),
        None => return,
    };
    let allowed = "1 to 64 addresses of this machine, each once, of the family of the service's \
                   and other than it";
    problems.add(place, "service.nat_pool", refusal(found, allowed));
}

/// Checks that the backends' addresses have room in the data path's table.
pub(super) fn targets(problems: &mut Problems<'_>, services: &[Service]) {
    let spliced = services.iter().filter_map(Service::splice);
    let backends = spliced.flat_map(|splice| &splice.common.backends);
    let distinct: HashSet<_> = backends.map(|backend| backend.target.to_string()).collect();
    let found = distinct.len();
    if found > TARGETS_MAX as usize {
        let found = format!("{found} backends of services with mode = \"splice\"");
        let message = refusal(found, &format!("at most {TARGETS_MAX}"));
        problems.add(None, "service.backend", message);
    }
}

#[cfg(test)]
mod tests;
