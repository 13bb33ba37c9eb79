//! What is configured for services in `proxy` mode, and for the proxy as a whole.

use std::{
    net::{IpAddr, SocketAddr},
    ops::{Range, RangeInclusive},
    time::Duration,
};

use super::{
    super::{
        PREFIXES_MAX, Prefix, ProxyGlobals, ProxyService, Timeouts, error::Problems,
        field::refusal, raw, target, units,
    },
    backends::{self, Addresses},
    keepalive, limits,
    read::{boolean, integer, list, place_of, string},
};

/// Local addresses that a service may connect to its backends from.
const SOURCES_MAX: usize = 64;

/// Connections that may be allowed at a time.
pub(super) const CONNECTIONS_RANGE: RangeInclusive<i64> = 0..=10_000_000;

pub(super) const fn seconds(least: u64, most: u64) -> RangeInclusive<Duration> {
    Duration::from_secs(least)..=Duration::from_secs(most)
}

pub(super) const HOUR_S: u64 = 3600;

/// The longest that a state may last: 24 days.
pub(super) const LONGEST_S: u64 = 24 * 24 * HOUR_S;

/// How long a server's sockets may be in CLOSE_WAIT.
pub(super) const REAP_RANGE: RangeInclusive<Duration> = seconds(10, LONGEST_S);

/// The table `[proxy]`.
pub(super) fn globals(problems: &mut Problems<'_>, raw: Option<raw::Proxy>) -> ProxyGlobals {
    let raw = raw.unwrap_or_default();
    let default = ProxyGlobals::default();
    let workers = integer(problems, "proxy.workers", raw.workers, 1..=256);
    let connections_max = integer(
        problems,
        "proxy.connections_max",
        raw.connections_max,
        1..=*CONNECTIONS_RANGE.end(),
    );
    let pipes_max = integer(problems, "proxy.pipes_max", raw.pipes_max, 0..=65_536);
    let buffer = string(problems, "proxy.buffer_max", raw.buffer_max, |text| {
        units::size(text, &(1 << 20..=64 << 30))
    });
    let drain = string(problems, "proxy.drain_timeout", raw.drain_timeout, |text| {
        units::duration(text, &seconds(0, HOUR_S))
    });
    ProxyGlobals {
        workers,
        connections_max: connections_max.unwrap_or(default.connections_max),
        pipes_max: pipes_max.unwrap_or(default.pipes_max),
        buffer_bytes_max: buffer.unwrap_or(default.buffer_bytes_max),
        drain_timeout: drain.unwrap_or(default.drain_timeout),
        dns_server: string(
            problems,
            "proxy.dns_server",
            raw.dns_server,
            target::dns_server,
        ),
    }
}

/// A service's keys for `proxy` mode, and its backends' addresses. `address` is its own, if that
/// is valid; `default` is how long its connections may stay in a state unless it says so.
pub(super) fn service(
    problems: &mut Problems<'_>,
    mut raw: raw::Service,
    address: Option<SocketAddr>,
    table: &Range<usize>,
    default: Timeouts,
) -> (ProxyService, Addresses) {
    let key = "service.balance";
    let balance = string(problems, key, raw.balance.take(), target::balance);
    let key = "service.retries";
    let retries = integer(problems, key, raw.retries.take(), 0..=10);
    let key = "service.half_open_max";
    let half_open = integer(problems, key, raw.half_open_max.take(), 1..=1_000_000);
    let timeouts = limits::timeouts(problems, &mut raw, default);
    let bounds = limits::limits(problems, &mut raw);
    let (mut health, check) = limits::health(problems, &mut raw);
    if let Some(ejection) = raw.ejection.take() {
        limits::eject(problems, ejection.into_inner(), &mut health);
    }
    let key = "service.send_proxy";
    let send_proxy = string(problems, key, raw.send_proxy.take(), target::send_proxy);
    let key = "service.accept_proxy";
    let accept_proxy = list(
        problems,
        key,
        raw.accept_proxy.take(),
        PREFIXES_MAX,
        target::prefix,
    );
    let accept_proxy = accept_proxy.unwrap_or_default();
    let required = accept_proxy_required(problems, &mut raw, &accept_proxy);
    let (transparent, source) = source(problems, &mut raw);
    let backends = backends::read(problems, raw.backend, table);
    if let (true, Some(address)) = (transparent, address) {
        backends::same_family(problems, address, &backends.1, "transparent = true");
    }
    let keepalive = [
        ("service.client_keepalive", raw.client_keepalive),
        ("service.backend_keepalive", raw.backend_keepalive),
    ]
    .map(|(key, field)| keepalive::read(problems, key, field));
    let service = ProxyService {
        backends: backends.0,
        balance: balance.unwrap_or_default(),
        check,
        health,
        timeouts,
        retries: retries.unwrap_or(2),
        half_open_max: half_open.unwrap_or(4096),
        limits: bounds,
        send_proxy: send_proxy.flatten(),
        accept_proxy,
        accept_proxy_required: required,
        transparent,
        source,
        spliced: false,
        keepalive,
    };
    (service, backends.1)
}

/// Whether upstreams outside the list are refused.
fn accept_proxy_required(
    problems: &mut Problems<'_>,
    raw: &mut raw::Service,
    list: &[Prefix],
) -> bool {
    let key = "service.accept_proxy_required";
    let place = place_of(&raw.accept_proxy_required);
    let required = boolean(problems, key, raw.accept_proxy_required.take());
    if let (Some(required), true) = (required, list.is_empty()) {
        let found = format!("{required} without accept_proxy");
        let message = refusal(found, "only with addresses in accept_proxy");
        problems.add(place, key, message);
    }
    required.unwrap_or(true)
}

/// Where connections to backends come from.
fn source(problems: &mut Problems<'_>, raw: &mut raw::Service) -> (bool, Vec<IpAddr>) {
    let place = place_of(&raw.source);
    let key = "service.transparent";
    let transparent = boolean(problems, key, raw.transparent.take()).unwrap_or(false);
    let key = "service.source";
    let field = raw.source.take();
    let source = list(problems, key, field, SOURCES_MAX, target::source);
    let source = source.unwrap_or_default();
    if transparent && !source.is_empty() {
        let message = refusal(
            "addresses together with transparent = true",
            "either: with transparent, connections come from the client's own address",
        );
        problems.add(place, key, message);
    }
    (transparent, source)
}
