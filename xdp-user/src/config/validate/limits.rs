//! How long a connection of a service in `proxy` mode may stay in a state, how many there may be,
//! and when a backend is used.

use std::time::Duration;

use super::{
    super::{Check, HealthPolicy, Limits, Timeouts, error::Problems, field::refusal, raw, units},
    check,
    proxy::{CONNECTIONS_RANGE, HOUR_S, LONGEST_S, seconds},
    read::{integer, place_of, string},
};

/// What is not given is as in `default`.
pub(super) fn timeouts(
    problems: &mut Problems<'_>,
    raw: &mut raw::Service,
    default: Timeouts,
) -> Timeouts {
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
pub(super) fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

pub(super) fn limits(problems: &mut Problems<'_>, raw: &mut raw::Service) -> Limits {
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

pub(super) fn health(
    problems: &mut Problems<'_>,
    raw: &mut raw::Service,
) -> (HealthPolicy, Option<Check>) {
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

pub(super) fn eject(problems: &mut Problems<'_>, raw: raw::Ejection, health: &mut HealthPolicy) {
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
