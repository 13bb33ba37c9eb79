//! What is configured for services in `proxy` mode, and for the proxy as a whole.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    ops::{Range, RangeInclusive},
    time::Duration,
};

use toml::{Spanned, Value};

use super::{
    super::{
        BACKENDS_MAX, Backend, HealthPolicy, Limits, PREFIXES_MAX, Prefix, ProxyGlobals,
        ProxyService, Target, Timeouts,
        error::Problems,
        field::{self, Judged, refusal},
        raw::{self, Field},
        target, units,
    },
    Place, boolean, check, describe, integer, keepalive, missing, place_of, string, unique,
};

/// Local addresses that a service may connect to its backends from.
const SOURCES_MAX: usize = 64;

/// Connections that may be allowed at a time.
const CONNECTIONS_RANGE: RangeInclusive<i64> = 0..=10_000_000;

const fn seconds(least: u64, most: u64) -> RangeInclusive<Duration> {
    Duration::from_secs(least)..=Duration::from_secs(most)
}

const HOUR_S: u64 = 3600;

/// The longest that a state may last: 24 days.
const LONGEST_S: u64 = 24 * 24 * HOUR_S;

/// How long a server's sockets may be in CLOSE_WAIT.
pub(super) const REAP_RANGE: RangeInclusive<Duration> = seconds(10, LONGEST_S);

/// The addresses of backends, with their places.
pub(super) type Addresses = Vec<(Place, SocketAddr)>;

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
/// is valid.
pub(super) fn service(
    problems: &mut Problems<'_>,
    mut raw: raw::Service,
    address: Option<SocketAddr>,
    table: &Range<usize>,
) -> (ProxyService, Addresses) {
    let key = "service.balance";
    let balance = string(problems, key, raw.balance.take(), target::balance);
    let key = "service.retries";
    let retries = integer(problems, key, raw.retries.take(), 0..=10);
    let key = "service.half_open_max";
    let half_open = integer(problems, key, raw.half_open_max.take(), 1..=1_000_000);
    let timeouts = timeouts(problems, &mut raw);
    let limits = limits(problems, &mut raw);
    let (mut health, check) = health(problems, &mut raw);
    if let Some(ejection) = raw.ejection.take() {
        eject(problems, ejection.into_inner(), &mut health);
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
    let backends = backends(problems, raw.backend, table);
    if let (true, Some(address)) = (transparent, address) {
        same_family(problems, address, &backends.1);
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
        limits,
        send_proxy: send_proxy.flatten(),
        accept_proxy,
        accept_proxy_required: required,
        transparent,
        source,
        keepalive,
    };
    (service, backends.1)
}

/// Refuses backends that are services of the proxy themselves: a connection would go round until
/// nothing is left.
pub(super) fn refuse_loops(
    problems: &mut Problems<'_>,
    backends: Addresses,
    services: &HashMap<SocketAddr, String>,
) {
    for (place, address) in backends {
        if let Some(name) = services.get(&address) {
            let found = format!("\"{address}\", the address of the service {name} in proxy mode");
            let message = refusal(found, "the address of a server");
            problems.add(place, "service.backend.address", message);
        }
    }
}

fn timeouts(problems: &mut Problems<'_>, raw: &mut raw::Service) -> Timeouts {
    let default = Timeouts::default();
    let short = Duration::from_millis(100)..=Duration::from_secs(60);
    let connect = Duration::from_millis(10)..=Duration::from_secs(300);
    let half_closed = seconds(1, LONGEST_S);
    let mut fixed = |key, field, range: &_, default| {
        let read = string(problems, key, field, |text| units::duration(text, range));
        read.map_or(default, milliseconds)
    };
    let header_ms = fixed(
        "service.header_timeout",
        raw.header_timeout.take(),
        &short,
        default.header_ms,
    );
    let connect_ms = fixed(
        "service.connect_timeout",
        raw.connect_timeout.take(),
        &connect,
        default.connect_ms,
    );
    let close_wait_ms = fixed(
        "service.close_wait_timeout",
        raw.close_wait_timeout.take(),
        &half_closed,
        default.close_wait_ms,
    );
    let fin_wait_ms = fixed(
        "service.fin_wait_timeout",
        raw.fin_wait_timeout.take(),
        &half_closed,
        default.fin_wait_ms,
    );
    let mut optional = |key, field, most, default| {
        let range = seconds(1, most);
        let read = string(problems, key, field, |t| units::duration_or_off(t, &range));
        read.map_or(default, |duration| duration.map_or(0, milliseconds))
    };
    let key = "service.first_byte_timeout";
    let first_byte = raw.first_byte_timeout.take();
    let first_byte_ms = optional(key, first_byte, HOUR_S, default.first_byte_ms);
    let key = "service.idle_timeout";
    let idle_ms = optional(key, raw.idle_timeout.take(), LONGEST_S, default.idle_ms);
    Timeouts {
        header_ms,
        connect_ms,
        first_byte_ms,
        idle_ms,
        close_wait_ms,
        fin_wait_ms,
    }
}

/// Every range that is allowed fits.
fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

fn limits(problems: &mut Problems<'_>, raw: &mut raw::Service) -> Limits {
    let mut bound = |key, field| integer(problems, key, field, CONNECTIONS_RANGE).unwrap_or(0);
    let service = bound("service.connections_max", raw.connections_max.take());
    let per_client = bound(
        "service.connections_per_client_max",
        raw.connections_per_client_max.take(),
    );
    let per_prefix = bound(
        "service.connections_per_prefix_max",
        raw.connections_per_prefix_max.take(),
    );
    let key = "service.new_connections_per_client";
    let rate = raw.new_connections_per_client.take();
    let rate = string(problems, key, rate, units::rate).flatten();
    let key = "service.new_connections_burst";
    let place = place_of(&raw.new_connections_burst);
    let burst = raw.new_connections_burst.take();
    let burst = integer::<u32>(problems, key, burst, 0..=1_000_000).filter(|burst| *burst > 0);
    if let (Some(burst), None) = (burst, rate) {
        let found = format!("{burst} without new_connections_per_client");
        let message = refusal(found, "a burst where there is a rate");
        problems.add(place, key, message);
    }
    let second = |per_minute: u32| per_minute.div_ceil(60);
    Limits {
        service,
        per_client,
        per_prefix,
        rate_per_minute: rate.unwrap_or(0),
        rate_burst: burst.or_else(|| rate.map(second)).unwrap_or(0),
    }
}

fn health(
    problems: &mut Problems<'_>,
    raw: &mut raw::Service,
) -> (HealthPolicy, Option<super::super::Check>) {
    let mut health = HealthPolicy::default();
    let key = "service.slow_start";
    let slow_start = string(problems, key, raw.slow_start.take(), |text| {
        units::duration_or_off(text, &seconds(1, HOUR_S))
    });
    health.slow_start = slow_start.flatten().unwrap_or_default();
    let check = raw.check.take();
    let check = check.and_then(|raw| check::read(problems, raw, &mut health));
    (health, check)
}

fn eject(problems: &mut Problems<'_>, raw: raw::Ejection, health: &mut HealthPolicy) {
    let key = "service.ejection.failures";
    if let Some(failures) = integer(problems, key, raw.failures, 0..=1000) {
        health.eject_failures = failures;
    }
    let key = "service.ejection.duration";
    let duration = string(problems, key, raw.duration, |text| {
        units::duration(text, &seconds(1, HOUR_S))
    });
    if let Some(duration) = duration {
        health.eject_duration = duration;
    }
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

/// A connection from the client's own address is of its family.
fn same_family(problems: &mut Problems<'_>, service: SocketAddr, backends: &Addresses) {
    for (place, address) in backends {
        if address.is_ipv4() != service.is_ipv4() {
            let found = format!("\"{address}\" with transparent = true");
            let message = refusal(found, "an address of the family of the service's");
            problems.add(place.clone(), "service.backend.address", message);
        }
    }
}

fn backends(
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

/// An array of strings, each of which is judged; `None` when it is not given or not valid.
pub(super) fn list<T>(
    problems: &mut Problems<'_>,
    key: &str,
    field: Field,
    max: usize,
    judge: impl Fn(&str) -> Judged<T>,
) -> Option<Vec<T>> {
    let field = field?;
    let span = field.span();
    let judged = match field.get_ref() {
        Value::Array(values) if values.len() <= max => values.iter().map(|value| match value {
            Value::String(text) => judge(text),
            other => Err(refusal(describe(other), "a string, in quotes")),
        }),
        Value::Array(values) => {
            let found = format!("{} values", values.len());
            problems.add(Some(span), key, refusal(found, &format!("at most {max}")));
            return None;
        }
        other => {
            let message = refusal(describe(other), "an array of strings, such as [\"...\"]");
            problems.add(Some(span), key, message);
            return None;
        }
    };
    let judged: Result<Vec<T>, String> = judged.collect();
    judged
        .map_err(|message| problems.add(Some(span), key, message))
        .ok()
}
