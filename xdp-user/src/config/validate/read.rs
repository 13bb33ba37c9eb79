//! Values out of the file, each judged where it stands.

use std::ops::{Range, RangeInclusive};

use toml::{Spanned, Value};

use super::{
    super::{
        error::Problems,
        field::{self, Judged, refusal},
        raw::Field,
    },
    Place,
};

pub(super) fn place_of(field: &Field) -> Place {
    field.as_ref().map(Spanned::span)
}

pub(super) fn missing(problems: &mut Problems<'_>, table: Range<usize>, key: &str, allowed: &str) {
    problems.add(Some(table), key, refusal("nothing", allowed));
}

pub(super) fn string<T>(
    problems: &mut Problems<'_>,
    key: &str,
    field: Field,
    judge: impl FnOnce(&str) -> Judged<T>,
) -> Option<T> {
    let field = field?;
    let span = field.span();
    let judged = match field.get_ref() {
        Value::String(text) => judge(text),
        other => Err(refusal(describe(other), "a string, in quotes")),
    };
    judged
        .map_err(|message| problems.add(Some(span), key, message))
        .ok()
}

pub(super) fn boolean(problems: &mut Problems<'_>, key: &str, field: Field) -> Option<bool> {
    let field = field?;
    if let Value::Boolean(value) = field.get_ref() {
        return Some(*value);
    }
    let message = refusal(describe(field.get_ref()), "true or false");
    problems.add(Some(field.span()), key, message);
    None
}

pub(super) fn integer<T: TryFrom<i64>>(
    problems: &mut Problems<'_>,
    key: &str,
    field: Field,
    range: RangeInclusive<i64>,
) -> Option<T> {
    let field = field?;
    let value = match field.get_ref() {
        Value::Integer(value) if range.contains(value) => T::try_from(*value).ok(),
        _ => None,
    };
    if value.is_none() {
        let allowed = format!("a whole number from {} to {}", range.start(), range.end());
        let message = refusal(describe(field.get_ref()), &allowed);
        problems.add(Some(field.span()), key, message);
    }
    value
}

pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::String(text) => field::quoted(text),
        Value::Integer(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Boolean(value) => value.to_string(),
        Value::Datetime(value) => value.to_string(),
        Value::Array(_) => "an array".into(),
        Value::Table(_) => "a table".into(),
    }
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
