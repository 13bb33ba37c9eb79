//! The state of levee for people.

use std::fmt::Write as _;

use super::{Status, status::Actions};

mod proxy;
mod splice;

/// Drop reasons shown.
const REASONS_MAX: usize = 8;

/// The table that `levee status` prints.
#[must_use]
pub fn render(status: &Status) -> String {
    let mut text = head(status);
    text += "\n";
    text += &table(&interfaces(status));
    text += "\n";
    text += &table(&services(status));
    if let Some(proxy) = &status.proxy {
        text += "\n";
        text += &proxy::render(proxy);
    }
    if let Some(splice) = &status.splice {
        text += "\n";
        text += &splice::render(splice);
    }
    if status.drops.is_empty() {
        text += "\nNothing dropped.\n";
    } else {
        text += "\n";
        text += &table(&drops(status));
    }
    text
}

fn head(status: &Status) -> String {
    let state = match &status.proxy {
        Some(proxy) if proxy.draining => {
            "STOPPING: levee answers no SYN any more, and waits for the proxy's connections to end"
        }
        _ if status.active => "protecting",
        _ => "NOT PROTECTING: the XDP program is gone from an interface, see below",
    };
    let reload = if status.last_reload_successful {
        ""
    } else {
        "The last reload FAILED: the configuration before it is in force.\n"
    };
    let adopted = if status.adopted {
        "It took the data path over from an earlier levee, whose counters go on.\n"
    } else {
        ""
    };
    format!(
        "levee {} (pid {}), up {}, cookie key epoch {}: {state}\n{adopted}{reload}",
        status.version,
        status.pid,
        duration(status.uptime_s as u64),
        status.key_epoch,
    )
}

fn interfaces(status: &Status) -> Vec<Vec<String>> {
    let mut rows = vec![row([
        "INTERFACE",
        "MODE",
        "PASSED",
        "ANSWERED",
        "DROPPED",
        "PASSED/s",
        "ANSWERED/s",
        "DROPPED/s",
    ])];
    for interface in &status.interfaces {
        let mode = if interface.attached {
            interface.mode.clone()
        } else {
            "LOST".into()
        };
        let mut cells = vec![interface.name.clone(), mode];
        for Actions { pass, tx, drop } in [interface.packets, interface.packets_per_s] {
            cells.extend([pass, tx, drop].map(grouped));
        }
        rows.push(cells);
    }
    rows
}

fn services(status: &Status) -> Vec<Vec<String>> {
    let mut rows = vec![row([
        "SERVICE",
        "ADDRESS",
        "SYN-ACKS",
        "VALID",
        "INVALID",
        "ADMITTED",
        "NO LISTENER",
        "REFUSED",
        "UNPROVEN",
        "SYN_RECV",
    ])];
    for service in &status.services {
        let mut cells = vec![service.name.clone(), service.address.to_string()];
        cells.extend(
            [
                service.cookies_sent,
                service.cookies_valid,
                service.cookies_invalid,
                service.admitted,
                service.no_listener,
                service.refused,
                service.unproven,
                service.syn_recv,
            ]
            .map(grouped),
        );
        rows.push(cells);
    }
    rows
}

fn drops(status: &Status) -> Vec<Vec<String>> {
    let mut rows = vec![row(["DROP REASON", "PACKETS"])];
    let shown = status.drops.iter().take(REASONS_MAX);
    rows.extend(shown.map(|drop| vec![drop.reason.clone(), grouped(drop.packets)]));
    rows
}

pub(super) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(String::from).to_vec()
}

/// Aligns columns: words to the left, numbers to the right. The first row is the head.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
    let mut text = String::new();
    let numeric: Vec<bool> = (0..columns)
        .map(|c| rows[1..].iter().all(|row| is_number(&cell(row, c))))
        .collect();
    let widths: Vec<usize> = (0..columns)
        .map(|c| rows.iter().map(|row| cell(row, c).len()).max().unwrap_or(0))
        .collect();
    for row in rows {
        let mut line = String::new();
        for column in 0..columns {
            let (text, width) = (cell(row, column), widths[column]);
            // Writing to a string cannot fail.
            let _ = if numeric[column] {
                write!(line, "{text:>width$}  ")
            } else {
                write!(line, "{text:<width$}  ")
            };
        }
        text += line.trim_end();
        text += "\n";
    }
    text
}

fn is_number(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b' ')
}

/// Digits in groups of three.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// The two largest units of a duration.
fn duration(s: u64) -> String {
    let (days, hours, minutes) = (s / 86_400, s / 3600 % 24, s / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{s} s"),
        (0, 0, _) => format!("{minutes} min {} s", s % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// As [`duration`], and tenths of what is shorter than ten seconds.
pub(super) fn duration_ms(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => duration(ms / 1000),
    }
}

/// A number of bytes in the largest unit of which there is one.
pub(super) fn bytes(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.iter().find(|(bits, _)| bytes >> bits > 0);
    match unit {
        Some((bits, unit)) => format!("{:.1} {unit}", bytes as f64 / (1_u64 << bits) as f64),
        None => format!("{bytes} B"),
    }
}
