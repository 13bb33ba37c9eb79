//! Keepalive probes: a word for a preset, or a table with all three numbers.

use std::{ops::RangeInclusive, time::Duration};

use toml::Value;

use super::{
    super::{
        Keepalive,
        error::Problems,
        field::{Judged, quoted, refusal},
        raw::Field,
        units,
    },
    read::describe,
};

const ALLOWED: &str = "\"off\", \"classic\" (2 h, 75 s, 10 probes), \"heartbeat\" (30 s, 5 s, 3 probes) or a table \
     such as { idle = \"30s\", interval = \"5s\", count = 3 }";

/// What Linux takes: `MAX_TCP_KEEPIDLE` and `MAX_TCP_KEEPINTVL`.
const SECONDS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(32_767);

/// What Linux takes: `MAX_TCP_KEEPCNT`.
const COUNT: RangeInclusive<i64> = 1..=127;

/// The probes of one leg; `None` for none.
pub(super) fn read(problems: &mut Problems<'_>, key: &str, field: Field) -> Option<Keepalive> {
    let field = field?;
    let judged = match field.get_ref() {
        Value::String(text) => preset(text),
        Value::Table(table) => custom(table).map(Some),
        other => Err(refusal(describe(other), ALLOWED)),
    };
    judged
        .map_err(|message| problems.add(Some(field.span()), key, message))
        .ok()
        .flatten()
}

fn preset(text: &str) -> Judged<Option<Keepalive>> {
    match text {
        "off" => Ok(None),
        "classic" => Ok(Some(Keepalive::CLASSIC)),
        "heartbeat" => Ok(Some(Keepalive::HEARTBEAT)),
        _ => Err(refusal(quoted(text), ALLOWED)),
    }
}

fn custom(table: &toml::Table) -> Judged<Keepalive> {
    if let Some(key) = table
        .keys()
        .find(|key| !["idle", "interval", "count"].contains(&&***key))
    {
        return Err(refusal(format_args!("the key {}", quoted(key)), ALLOWED));
    }
    let seconds = |key: &str| match table.get(key) {
        Some(Value::String(text)) => whole_seconds(text).map_err(|why| format!("{key}: {why}")),
        found => Err(refusal(named(key, found), ALLOWED)),
    };
    let count = match table.get("count") {
        Some(Value::Integer(count)) if COUNT.contains(count) => *count,
        Some(Value::Integer(count)) => {
            return Err(refusal(
                format_args!("count = {count}"),
                "a count from 1 to 127",
            ));
        }
        found => return Err(refusal(named("count", found), ALLOWED)),
    };
    Ok(Keepalive {
        idle: seconds("idle")?,
        interval: seconds("interval")?,
        count: count as u32,
    })
}

/// The kernel counts seconds.
fn whole_seconds(text: &str) -> Judged<Duration> {
    let duration = units::duration(text, &SECONDS)?;
    if duration.subsec_nanos() != 0 {
        return Err(refusal(quoted(text), "whole seconds"));
    }
    Ok(duration)
}

fn named(key: &str, found: Option<&Value>) -> String {
    found.map_or_else(
        || format!("a table without {key}"),
        |value| format!("{key} = {}", describe(value)),
    )
}
