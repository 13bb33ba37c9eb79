//! The demonstration: the same flood against the same web server, first without levee, then with.
mod screen;

use std::{
    io::Write,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use self::screen::Screen;
use crate::{
    client::{Load, LoadSpec, Sample},
    flood::{Flood, FloodKind, FloodSpec},
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
/// A page that takes longer counts as not served: a lost SYN has been repeated twice by then.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(3);
/// Share of the client's pages that must arrive during the flood for levee to have done its job.
const SUCCESS_PERCENT: f64 = 99.0;

/// Runs the demonstration and writes what happens to `out` as it goes, one line per second.
///
/// # Errors
/// Fails when the lab does, on an interrupt, and when levee let the client down.
pub fn run(options: DemoOptions, interrupt: &Interrupt, out: &mut dyn Write) -> Result<()> {
    let mut screen = Screen::new(out);
    screen.introduce(options.rate)?;
    screen.title("1 of 2: without levee (Linux as it comes: tcp_syncookies=1)")?;
    let without = phase(System::Syncookies, options, interrupt, &mut screen)?;
    screen.title(
        "2 of 2: with levee on the same interface, the same flood (rate and seed) asked for",
    )?;
    let with = phase(System::Levee, options, interrupt, &mut screen)?;
    screen.compare(&without, &with)?;
    screen.next_step()?;
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

fn phase(
    system: System,
    options: DemoOptions,
    interrupt: &Interrupt,
    screen: &mut Screen<'_>,
) -> Result<Phase> {
    let lab = Lab::new(&LabOptions::default())?;
    let services = host_addresses(PORT);
    let _server = Nginx::start(&lab.host, &services)?;
    let protection = system.start(&lab, &services)?;
    let mut watch = Watch {
        lab,
        protection,
        interrupt,
        screen,
        second: 0,
    };
    watch.quiet(services[0])?;
    watch.flooded(services[0], options)
}

/// A lab under observation.
struct Watch<'a, 'out> {
    lab: Lab,
    protection: Protection,
    interrupt: &'a Interrupt,
    screen: &'a mut Screen<'out>,
    second: u32,
}

impl Watch<'_, '_> {
    /// The client alone.
    fn quiet(&mut self, target: SocketAddr) -> Result<()> {
        let load = self.client(target, QUIET_SECONDS)?;
        self.follow(QUIET_SECONDS, None, &load, u32::MAX)?;
        load.join()?;
        Ok(())
    }

    /// The client during the flood, which goes on until the last of the client's connections has
    /// had its chance.
    fn flooded(&mut self, target: SocketAddr, options: DemoOptions) -> Result<Phase> {
        let seconds = options.seconds + CLIENT_TIMEOUT.as_secs() as u32;
        let flood = self.lab.flood(FloodSpec {
            target,
            kind: FloodKind::Syn,
            rate: Some(options.rate),
            seed: SEED,
            count_max: u64::MAX,
            duration_max: Duration::from_secs(u64::from(seconds) + 5),
        })?;
        let start = self.read(Some(&flood))?;
        let load = self.client(target, options.seconds)?;
        let connections = CLIENT_RATE * options.seconds;
        let mut samples = self.follow(seconds, Some(&flood), &load, connections)?;
        let rates = self.read(Some(&flood))?.since(&start);
        samples.extend(load.join()?);
        flood.stop()?;
        Ok(Phase {
            client: Summary::new(&samples),
            rates,
        })
    }

    fn client(&self, target: SocketAddr, seconds: u32) -> Result<Load> {
        let spec = LoadSpec {
            target,
            rate: CLIENT_RATE,
            count: CLIENT_RATE * seconds,
            timeout: CLIENT_TIMEOUT,
        };
        Load::start(&self.lab.client, spec)
    }

    fn read(&mut self, flood: Option<&Flood>) -> Result<Reading> {
        Reading::take(&mut self.lab, flood, self.protection.levee())
    }

    /// Shows what happens each second, until so many have passed or so many connections have
    /// ended; returns those.
    fn follow(
        &mut self,
        seconds: u32,
        flood: Option<&Flood>,
        load: &Load,
        connections: u32,
    ) -> Result<Vec<Sample>> {
        let mut samples = Vec::new();
        let mut last = self.read(flood)?;
        let mut next = Instant::now();
        for _ in 0..seconds {
            if samples.len() >= connections as usize {
                break;
            }
            next += Duration::from_secs(1);
            self.interrupt.sleep_until(next)?;
            self.second += 1;
            let reading = self.read(flood)?;
            let ended = load.drain();
            self.screen
                .second(self.second, &reading.since(&last), &Summary::new(&ended))?;
            samples.extend(ended);
            last = reading;
        }
        Ok(samples)
    }
}
