//! The demonstration: the same flood against the same web server, first without levee, then with.
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{
    client::{Load, LoadSpec, Sample},
    flood::{Flood, FloodKind, FloodSpec},
    format::{latency, percent, quantity},
    interrupt::Interrupt,
    observer::{Rates, Reading},
    protection::{Protection, System},
    server::Nginx,
    stats::Summary,
    topology::{Lab, LabOptions, host_addresses},
};

/// What the user may choose.
#[derive(Clone, Copy, Debug)]
pub struct DemoOptions {
    /// SYNs per second.
    pub rate: u64,
    /// How long each of the two floods lasts, in seconds.
    pub seconds: u32,
}

const PORT: u16 = 80;
const SEED: u64 = 0x1e7ee;
/// Seconds without a flood at the start of each phase.
const QUIET_SECONDS: u32 = 2;
/// New connections of the legitimate client per second.
const CLIENT_RATE: u32 = 100;
/// A page that takes longer counts as not served: by then a SYN has been sent twice more.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(3);
/// Share of the client's pages that must arrive during the flood for levee to have done its job.
const SUCCESS_PERCENT: f64 = 99.0;

/// Runs the demonstration and prints it as it goes.
///
/// # Errors
/// Fails when the lab does, on an interrupt, and when levee let the client down.
pub fn run(options: DemoOptions, interrupt: &Interrupt) -> Result<()> {
    println!(
        "levee demo: nginx, a client that opens {CLIENT_RATE} connections per second, and a flood \
         of {} SYNs per second\nfrom random spoofed addresses on the same link. Everything \
         happens in private network namespaces on this machine.\n",
        quantity(options.rate as f64)
    );
    println!("1 of 2: without levee (Linux as it comes: tcp_syncookies=1)");
    let without = phase(System::Syncookies, options, interrupt)?;
    println!("\n2 of 2: with levee on the same interface, same flood (rate and seed)");
    let with = phase(System::Levee, options, interrupt)?;
    print_table(&without, &with);
    print_next_step();
    let success = with.client.success().unwrap_or(0.0) * 100.0;
    if success < SUCCESS_PERCENT {
        bail!(
            "with levee only {success:.1} % of the client's pages arrived in time; at least \
             {SUCCESS_PERCENT} % were expected. Other work on this machine's CPUs, or a flood \
             beyond what they can carry (--rate), are the usual causes"
        );
    }
    Ok(())
}

/// What one flood did.
struct Phase {
    client: Summary,
    rates: Rates,
}

fn phase(system: System, options: DemoOptions, interrupt: &Interrupt) -> Result<Phase> {
    let mut lab = Lab::new(&LabOptions::default())?;
    let services = host_addresses(PORT);
    let _server = Nginx::start(&lab.host, &services)?;
    let protection = system.start(&lab, &services)?;
    let mut screen = Screen::new(&mut lab, &protection)?;
    println!("{HEADER}");
    let load = start_client(&lab, services[0], QUIET_SECONDS)?;
    for _ in 0..QUIET_SECONDS {
        screen.second(&mut lab, None, &protection, &load, interrupt)?;
    }
    load.join()?;

    let timeout = CLIENT_TIMEOUT.as_secs() as u32;
    let flood = lab.flood(FloodSpec {
        target: services[0],
        kind: FloodKind::Syn,
        rate: Some(options.rate),
        seed: SEED,
        count_max: u64::MAX,
        duration_max: Duration::from_secs(u64::from(options.seconds + 2 * timeout)),
    })?;
    screen.restart(Reading::take(&mut lab, Some(&flood), protection.levee())?);
    let start = screen.last.clone();
    let load = start_client(&lab, services[0], options.seconds)?;
    let mut client = Vec::new();
    // The flood goes on until the last of the client's connections has had its chance.
    for _ in 0..options.seconds + timeout {
        client.extend(screen.second(&mut lab, Some(&flood), &protection, &load, interrupt)?);
        if client.len() >= (CLIENT_RATE * options.seconds) as usize {
            break;
        }
    }
    let rates = screen.last.since(&start);
    client.extend(load.join()?);
    flood.stop()?;
    Ok(Phase {
        client: Summary::new(&client),
        rates,
    })
}

fn start_client(lab: &Lab, target: SocketAddr, seconds: u32) -> Result<Load> {
    let spec = LoadSpec {
        target,
        rate: CLIENT_RATE,
        count: CLIENT_RATE * seconds,
        timeout: CLIENT_TIMEOUT,
    };
    Load::start(&lab.client, spec)
}

const HEADER: &str = "  time  SYNs offered  answered   client ok      p50       p99   SYNs dropped";

/// Prints a line per second.
struct Screen {
    last: Reading,
    seconds: u32,
    next: Instant,
}

impl Screen {
    fn new(lab: &mut Lab, protection: &Protection) -> Result<Self> {
        Ok(Self {
            last: Reading::take(lab, None, protection.levee())?,
            seconds: 0,
            next: Instant::now(),
        })
    }

    /// Counts from a new reading on.
    fn restart(&mut self, reading: Reading) {
        self.last = reading;
        self.next = Instant::now();
    }

    /// Waits for the next full second and prints what has happened in it; returns the client's
    /// connections that ended in it.
    fn second(
        &mut self,
        lab: &mut Lab,
        flood: Option<&Flood>,
        protection: &Protection,
        load: &Load,
        interrupt: &Interrupt,
    ) -> Result<Vec<Sample>> {
        self.next += Duration::from_secs(1);
        interrupt.sleep_until(self.next)?;
        self.seconds += 1;
        let reading = Reading::take(lab, flood, protection.levee())?;
        let rates = reading.since(&self.last);
        let samples = load.drain();
        let client = Summary::new(&samples);
        println!(
            "  {:>3}s {:>12}/s {:>7}/s   {:>9} {:>8} {:>9}   {}",
            self.seconds,
            quantity(rates.offered),
            quantity(rates.answered),
            percent(client.success()),
            latency(client.p50),
            latency(client.p99),
            reasons(&rates),
        );
        self.last = reading;
        Ok(samples)
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

fn print_table(without: &Phase, with: &Phase) {
    println!(
        "\n{:<34}{:>16}{:>16}",
        "under the flood", "without levee", "with levee"
    );
    let row = |name: &str, value: &dyn Fn(&Phase) -> String| {
        println!("{name:<34}{:>16}{:>16}", value(without), value(with));
    };
    row("SYNs offered per second", &|phase| {
        quantity(phase.rates.offered)
    });
    row("SYNs answered per second", &|phase| {
        quantity(phase.rates.answered)
    });
    row("client's pages served in time", &|phase| {
        percent(phase.client.success())
    });
    row("median time of a served page", &|phase| {
        latency(phase.client.p50)
    });
    row("99th percentile", &|phase| latency(phase.client.p99));
    println!(
        "(in time: within {CLIENT_TIMEOUT:?}; queue_full: the host was too slow to take them off \
         its receive queue)"
    );
}

fn print_next_step() {
    println!(
        "\nTo protect a real server, on that server:\n\n  \
         cargo xtask build-and-load --iface eth0 --protect 192.0.2.10:443\n\n\
         with the interface that faces the Internet (`ip -br link`) for eth0, and address and port \
         of the\nservice (`ss -ltn`) for 192.0.2.10:443. --protect may be repeated; an IPv6 \
         address goes in brackets."
    );
}
