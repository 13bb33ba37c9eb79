//! What the demonstration writes: plain lines, for any terminal and for pipes.
use std::io::{Result, Write};

use super::{CLIENT_RATE, CLIENT_TIMEOUT, Phase};
use crate::{
    format::{latency, percent, quantity},
    observer::Rates,
    stats::Summary,
};

const HEADER: &str =
    "  time  SYNs offered   answered   client ok       p50        p99   SYNs dropped, by reason";

/// Floods whose rates differ by more are not the same flood any more.
const OFFERED_ALIKE: f64 = 0.8;

pub(super) struct Screen<'a> {
    out: &'a mut dyn Write,
}

impl<'a> Screen<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Self { out }
    }

    pub(super) fn introduce(&mut self, rate: u64) -> Result<()> {
        writeln!(
            self.out,
            "levee demo: nginx, a client that opens {CLIENT_RATE} connections per second, and on \
             the same link a flood\nof up to {} SYNs per second from random spoofed addresses. \
             Everything stays in network\nnamespaces of its own on this machine.",
            quantity(rate as f64)
        )
    }

    pub(super) fn title(&mut self, title: &str) -> Result<()> {
        writeln!(self.out, "\n{title}\n{HEADER}")
    }

    pub(super) fn second(&mut self, second: u32, rates: &Rates, client: &Summary) -> Result<()> {
        writeln!(
            self.out,
            "  {second:>3}s {:>12}/s {:>8}/s   {:>9} {:>9} {:>10}   {}",
            quantity(rates.offered),
            quantity(rates.answered),
            percent(client.success()),
            latency(client.p50),
            latency(client.p99),
            reasons(rates),
        )
    }

    pub(super) fn compare(&mut self, without: &Phase, with: &Phase) -> Result<()> {
        type Row = (&'static str, fn(&Phase) -> String);
        const ROWS: [Row; 6] = [
            ("SYNs offered per second", |phase| {
                quantity(phase.rates.offered)
            }),
            ("SYNs answered per second", |phase| {
                quantity(phase.rates.answered)
            }),
            ("SYNs dropped per second", |phase| {
                quantity(phase.rates.dropped_total())
            }),
            ("client's pages served in time", |phase| {
                percent(phase.client.success())
            }),
            ("median time of a served page", |phase| {
                latency(phase.client.p50)
            }),
            ("99th percentile", |phase| latency(phase.client.p99)),
        ];
        writeln!(
            self.out,
            "\n{:<32}{:>16}{:>16}",
            "under the flood", "without levee", "with levee"
        )?;
        for (name, value) in ROWS {
            writeln!(
                self.out,
                "{name:<32}{:>16}{:>16}",
                value(without),
                value(with)
            )?;
        }
        writeln!(
            self.out,
            "(in time: within {CLIENT_TIMEOUT:?}; queue_full: the host was too slow to take them \
             off its receive queue)"
        )?;
        let [fewer, more] = {
            let [a, b] = [without.rates.offered, with.rates.offered];
            [a.min(b), a.max(b)]
        };
        if fewer < more * OFFERED_ALIKE {
            writeln!(
                self.out,
                "(the two floods differ: the generator shares this machine's CPUs with whatever \
                 else it does;\ncompare shares, not rates, or run the demo again on an idle machine)"
            )?;
        }
        Ok(())
    }

    pub(super) fn next_step(&mut self) -> Result<()> {
        writeln!(
            self.out,
            "\nTo protect a real server, on that server:\n\n  \
             cargo xtask build-and-load --iface eth0 --protect 192.0.2.10:443\n\n\
             with the interface that faces the Internet (`ip -br link`) for eth0, and the \
             service's address\nand port (`ss -ltn`) for 192.0.2.10:443. --protect may be \
             repeated; an IPv6 address goes in\nbrackets."
        )
    }
}

/// `queue_full 812k/s, bad_cookie 3/s`, or a dash.
fn reasons(rates: &Rates) -> String {
    if rates.dropped.is_empty() {
        return "-".to_owned();
    }
    let reasons: Vec<String> = rates
        .dropped
        .iter()
        .map(|(reason, rate)| format!("{reason} {}/s", quantity(*rate)))
        .collect();
    reasons.join(", ")
}
