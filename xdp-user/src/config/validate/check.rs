//! The table `[service.check]`: the active health check.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use toml::{Spanned, Value};

use super::{
    super::{
        Check, HealthPolicy,
        error::Problems,
        field::{self, Judged, quoted, refusal},
        raw::{self, Field},
        target, units,
    },
    Place,
    read::{describe, integer, missing, place_of, string},
};

/// Between two checks.
const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

/// In a row, until a backend counts as up or as down.
const ROW: RangeInclusive<i64> = 1..=100;

/// Ranges of statuses in one check.
const STATUSES_MAX: usize = 16;

const STATUSES_ALLOWED: &str =
    "1 to 16 statuses from 100 to 599 or ranges of them, such as [\"200-399\", \"404\"]";

const KINDS_ALLOWED: &str = "\"tcp\", \"http\" or \"tls\"";

/// The kinds of check, as far as they decide which keys there may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Http,
    Tls,
}

/// The check; what it says about times and counts goes into `health`.
pub(super) fn read(
    problems: &mut Problems<'_>,
    raw: Spanned<raw::Check>,
    health: &mut HealthPolicy,
) -> Option<Check> {
    let table = raw.span();
    let mut raw = raw.into_inner();
    pace(problems, &mut raw, health);
    let key = "service.check.type";
    if raw.kind.is_none() {
        missing(problems, table, key, KINDS_ALLOWED);
    }
    let kind = string(problems, key, raw.kind.take(), kind)?;
    refuse_foreign_keys(problems, &raw, kind);
    Some(match kind {
        Kind::Tcp => Check::Tcp,
        Kind::Http => http(problems, raw),
        Kind::Tls => tls(problems, raw),
    })
}

fn kind(text: &str) -> Judged<Kind> {
    match text {
        "tcp" => Ok(Kind::Tcp),
        "http" => Ok(Kind::Http),
        "tls" => Ok(Kind::Tls),
        _ => Err(refusal(quoted(text), KINDS_ALLOWED)),
    }
}

fn pace(problems: &mut Problems<'_>, raw: &mut raw::Check, health: &mut HealthPolicy) {
    let judge = |text: &str| units::duration(text, &INTERVAL);
    let places = [&raw.timeout, &raw.interval].map(place_of);
    let key = "service.check.interval";
    if let Some(interval) = string(problems, key, raw.interval.take(), judge) {
        health.interval = interval;
        health.timeout = health.timeout.min(interval);
    }
    let key = "service.check.timeout";
    if let Some(timeout) = string(problems, key, raw.timeout.take(), judge) {
        health.timeout = timeout;
    }
    if health.timeout > health.interval {
        let [timeout, interval] = [health.timeout, health.interval].map(units::written_duration);
        let allowed = format!("at most the interval, {interval}");
        let [place, or] = places;
        problems.add(
            place.or(or),
            key,
            refusal(format_args!("{timeout:?}"), &allowed),
        );
    }
    if let Some(rise) = integer(problems, "service.check.rise", raw.rise.take(), ROW) {
        health.rise = rise;
    }
    if let Some(fall) = integer(problems, "service.check.fall", raw.fall.take(), ROW) {
        health.fall = fall;
    }
}

fn refuse_foreign_keys(problems: &mut Problems<'_>, raw: &raw::Check, kind: Kind) {
    let http = [
        ("service.check.path", &raw.path),
        ("service.check.host", &raw.host),
        ("service.check.status", &raw.status),
    ];
    let tls = [
        ("service.check.server_name", &raw.server_name),
        ("service.check.verify", &raw.verify),
        ("service.check.ca_file", &raw.ca_file),
    ];
    for (keys, of, word) in [(http, Kind::Http, "http"), (tls, Kind::Tls, "tls")] {
        let given = keys
            .iter()
            .filter(|(_, field)| of != kind && field.is_some());
        for (key, field) in given {
            let found = "it in a check of another type";
            let message = refusal(found, &format!("only with type = \"{word}\""));
            problems.add(place_of(field), key, message);
        }
    }
}

fn http(problems: &mut Problems<'_>, raw: raw::Check) -> Check {
    let path = string(problems, "service.check.path", raw.path, target::http_path);
    let host = string(problems, "service.check.host", raw.host, target::http_host);
    let status = statuses(problems, raw.status);
    Check::Http {
        path: path.unwrap_or_else(|| "/".into()),
        host,
        status: status.unwrap_or_else(|| vec![200..=399]),
    }
}

fn statuses(problems: &mut Problems<'_>, field: Field) -> Option<Vec<RangeInclusive<u16>>> {
    let field = field?;
    let read = match field.get_ref() {
        Value::Array(values) if (1..=STATUSES_MAX).contains(&values.len()) => {
            values.iter().map(status).collect()
        }
        Value::Array(values) => Err(refusal(
            format_args!("{} values", values.len()),
            STATUSES_ALLOWED,
        )),
        other => Err(refusal(describe(other), STATUSES_ALLOWED)),
    };
    read.map_err(|message| problems.add(Some(field.span()), "service.check.status", message))
        .ok()
}

fn status(value: &Value) -> Judged<RangeInclusive<u16>> {
    let number = |text: &str| {
        let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse::<u16>().ok().filter(|_| digits)?;
        (100..=599).contains(&number).then_some(number)
    };
    let range = match value {
        Value::String(text) => {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            number(first).zip(number(last))
        }
        Value::Integer(status) => number(&status.to_string()).map(|status| (status, status)),
        _ => None,
    };
    range
        .filter(|(first, last)| first <= last)
        .map(|(first, last)| first..=last)
        .ok_or_else(|| refusal(describe(value), STATUSES_ALLOWED))
}

fn tls(problems: &mut Problems<'_>, raw: raw::Check) -> Check {
    let key = "service.check.server_name";
    let name = string(problems, key, raw.server_name, target::server_name);
    let (verify_place, ca_place) = (place_of(&raw.verify), place_of(&raw.ca_file));
    let verify = string(problems, "service.check.verify", raw.verify, verify);
    let ca_file = string(problems, "service.check.ca_file", raw.ca_file, field::path);
    contradiction(problems, verify, ca_file.as_ref(), verify_place, ca_place);
    Check::Tls { name, ca_file }
}

/// Whether certificates are verified.
fn verify(text: &str) -> Judged<bool> {
    match text {
        "none" => Ok(false),
        "ca" => Ok(true),
        _ => Err(refusal(quoted(text), "\"none\", or \"ca\" with a ca_file")),
    }
}

fn contradiction(
    problems: &mut Problems<'_>,
    verify: Option<bool>,
    ca_file: Option<&PathBuf>,
    verify_place: Place,
    ca_place: Place,
) {
    match (verify, ca_file) {
        (Some(true), None) if ca_place.is_none() => {
            let message = refusal("\"ca\" without ca_file", "\"ca\" with a ca_file");
            problems.add(verify_place, "service.check.verify", message);
        }
        (Some(false), Some(file)) => {
            let found = format!("{} with verify = \"none\"", quoted(&file.to_string_lossy()));
            let message = refusal(found, "a ca_file with verify = \"ca\"");
            problems.add(ca_place, "service.check.ca_file", message);
        }
        _ => {}
    }
}
