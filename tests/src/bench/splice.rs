//! `splice` mode beside what it replaces: plain forwarding, forwarding behind nftables' SYNPROXY,
//! HAProxy, and levee's own proxy.
//!
//! All systems are measured in one run, in turns, each in a lab of its own that is built alike (see
//! [`Links::Forwarding`]): nobody has a CPU of his own, so that what costs less between client and
//! backend leaves them more. `…_cpu` is the CPU time of what stands between them: its process and
//! the threads that receive for its interfaces, where forwarding is done.
mod open_loop;
mod packets;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};

use self::open_loop::{Kind, Opened, Sample, Tuples, open};
use super::{
    host::Host,
    proxy::{
        System,
        backend::{BANNERS, Backend, IPERF, REQUESTS},
        load::{From, keep_alive, quantile},
        results::{Results, print_table},
        system::Running,
        usage::Usage,
    },
    search::{Ladder, Search, Trial},
};
use crate::{
    format::{percent, quantity},
    interrupt::Interrupt,
    iperf::{ServerAt, Transfer},
    proxy_lab::{BACKEND, Links, ProxyLab},
};

/// What the user may choose.
#[derive(Clone, Debug)]
pub struct SpliceOptions {
    /// How often everything is measured; medians are reported.
    pub rounds: u32,
    /// How long each load lasts, seconds.
    pub seconds: u32,
    /// What is compared.
    pub systems: Vec<System>,
    /// Print JSON on standard output instead of the table.
    pub json: bool,
}

/// New connections per second: from 1,000 in steps of 5 % to some 40,000.
const LADDER: Ladder = Ladder {
    start: 1_000.0,
    step: 1.05,
    rungs: 76,
};
/// Share of new connections that must succeed.
const SUCCESS: f64 = 0.99;
/// A load that opens its connections in more than this much of the time it should take could not
/// keep up itself.
const LATE: f64 = 1.05;
const TRIAL: Duration = Duration::from_secs(1);
/// Between two trials: what one has left in queues is gone.
const REST: Duration = Duration::from_millis(200);
/// New connections per second while latency and CPU are measured: well below what the slowest of
/// the systems stands on two cores.
const STEADY_RATE: u64 = 2_000;
/// Clients at a time, for requests on connections that stay open.
const CLIENTS: usize = 64;
const WARM_UP: Duration = Duration::from_millis(300);

/// Measures and prints.
///
/// # Errors
/// Fails when the lab does, when a system serves nothing, and on an interrupt.
pub fn run(options: &SpliceOptions, interrupt: &Interrupt) -> Result<()> {
    let mut results = Results::default();
    for round in 1..=options.rounds {
        for turn in 0..options.systems.len() {
            // Nobody is always the first, or always behind the same neighbour's heat.
            let system = options.systems[(turn + round as usize) % options.systems.len()];
            eprintln!("round {round} of {}: {}", options.rounds, system.name());
            let mut bench = Bench::new(system)?;
            bench
                .measure(options.seconds, interrupt, &mut results)
                .with_context(|| system.name())?;
        }
    }
    let rows = results.rows();
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    println!("{}", Host::ask()?);
    println!(
        "medians of {} round(s) of {} s each\n",
        options.rounds, options.seconds
    );
    print_table(&rows, &options.systems);
    Ok(())
}

/// A lab with a system at work in it.
struct Bench {
    system: System,
    lab: ProxyLab,
    running: Running,
    tuples: Tuples,
    _backend: Backend,
}

impl Bench {
    fn new(system: System) -> Result<Self> {
        let lab = ProxyLab::with(Links::Forwarding)?;
        let backend = Backend::start(&lab, None)?;
        let running = system.start(&lab, None)?;
        Ok(Self {
            system,
            lab,
            running,
            tuples: Tuples::default(),
            _backend: backend,
        })
    }

    fn measure(
        &mut self,
        seconds: u32,
        interrupt: &Interrupt,
        results: &mut Results,
    ) -> Result<()> {
        for (streams, reverse) in [(1, false), (1, true), (8, false), (8, true)] {
            interrupt.check()?;
            let way = if reverse { "down" } else { "up" };
            let transfer = Transfer {
                streams,
                seconds,
                reverse,
            };
            self.bulk(&format!("bulk_{streams}_{way}"), transfer, results)?;
        }
        interrupt.check()?;
        self.packets(seconds, results)?;
        self.requests(seconds, results)?;
        self.steady(seconds, results)?;
        let best = self.search(interrupt)?;
        results.add("connections", self.system, best, "connections/s");
        self.at_best(best as u64, results)
    }

    fn bulk(&self, scenario: &str, transfer: Transfer, results: &mut Results) -> Result<()> {
        let before = self.usage()?;
        let server = ServerAt {
            netns: &self.lab.backend,
            address: SocketAddr::new(BACKEND[0], IPERF),
        };
        let done = transfer.run(server, &self.lab.client, self.target(IPERF))?;
        let cpu = self.usage()?.since(&before).total().as_secs_f64();
        ensure!(done.bytes > 0, "{scenario}: nothing got through");
        let bytes = done.bytes as f64;
        let mut keep = |scenario: &str, value, unit| {
            results.add(scenario, self.system, value, unit);
        };
        keep(scenario, bytes * 8.0 / 1e9 / done.seconds, "Gbit/s");
        let per_gigabyte = cpu / (bytes / 1e9);
        keep(&format!("{scenario}_cpu"), per_gigabyte, "s per GB");
        let retransmits = done.retransmits as f64;
        keep(&format!("{scenario}_retransmits"), retransmits, "segments");
        Ok(())
    }

    /// Packets through what forwards packets.
    fn packets(&mut self, seconds: u32, results: &mut Results) -> Result<()> {
        if !matches!(self.system, System::Direct | System::Splice) {
            return Ok(());
        }
        let length = Duration::from_secs(seconds.into());
        let target = self.target(REQUESTS);
        let rate = packets::forwarded(&mut self.lab, target, length)?;
        results.add("packets", self.system, rate, "packets/s");
        Ok(())
    }

    /// Requests on connections that stay open.
    fn requests(&self, seconds: u32, results: &mut Results) -> Result<()> {
        let from = self.from(REQUESTS);
        keep_alive(&from, CLIENTS, WARM_UP)?;
        let before = self.usage()?;
        let achieved = keep_alive(&from, CLIENTS, Duration::from_secs(seconds.into()))?;
        let cpu = self.usage()?.since(&before).total().as_secs_f64();
        ensure!(achieved.done > 0, "nothing got through: {achieved:?}");
        let done = achieved.done as f64;
        let rate = done / achieved.elapsed.as_secs_f64();
        let failed = achieved.failed as f64;
        results.add("keep_alive", self.system, rate, "requests/s");
        results.add("keep_alive_failed", self.system, failed, "requests");
        let per_request = cpu * 1e6 / done;
        results.add("keep_alive_cpu", self.system, per_request, "µs per request");
        Ok(())
    }

    /// What new connections wait for, and cost, at a rate that every system stands.
    fn steady(&mut self, seconds: u32, results: &mut Results) -> Result<()> {
        let length = Duration::from_secs(seconds.into());
        self.open(REQUESTS, Kind::Request, STEADY_RATE, WARM_UP)?;
        let before = self.usage()?;
        let opened = self.open(REQUESTS, Kind::Request, STEADY_RATE, length)?;
        let cpu = self.usage()?.since(&before).total().as_secs_f64();
        let done = opened.samples.len();
        ensure!(done > 0, "no connection got through");
        let failed = (opened.due - done) as f64;
        results.add("connect_failed", self.system, failed, "connections");
        let per_connection = cpu * 1e6 / done as f64;
        results.add(
            "connect_cpu",
            self.system,
            per_connection,
            "µs per connection",
        );
        self.latency("connect", &opened, |sample| sample.connected, results);
        self.latency("answer", &opened, |sample| sample.first_byte, results);
        let opened = self.open(BANNERS, Kind::Banner, STEADY_RATE, length)?;
        ensure!(!opened.samples.is_empty(), "no banner came");
        self.latency("banner", &opened, |sample| sample.first_byte, results);
        Ok(())
    }

    fn latency(
        &self,
        what: &str,
        opened: &Opened,
        of: impl Fn(&Sample) -> Duration,
        results: &mut Results,
    ) {
        let mut samples: Vec<_> = opened.samples.iter().map(of).collect();
        for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
            let latency = quantile(&mut samples, share).as_secs_f64() * 1e6;
            results.add(&format!("{what}_{name}"), self.system, latency, "µs");
        }
    }

    /// The highest rate of new connections of which nearly all succeed.
    fn search(&mut self, interrupt: &Interrupt) -> Result<f64> {
        let mut search = Search::new(LADDER);
        while let Some(rung) = search.next_rung() {
            interrupt.sleep(REST)?;
            let rate = LADDER.rate(rung);
            let opened = self.open(REQUESTS, Kind::Request, rate, TRIAL)?;
            let share = opened.samples.len() as f64 / opened.due as f64;
            let late = opened.elapsed.as_secs_f64() / TRIAL.as_secs_f64();
            eprintln!(
                "  {:>7} connections/s: {} succeeded, opened in {late:.2} of the time",
                quantity(rate as f64),
                percent(Some(share)),
            );
            let trial = Trial {
                offered: rate as f64,
                succeeded: share >= SUCCESS && late <= LATE,
            };
            search.record(rung, trial);
        }
        Ok(search.best)
    }

    /// What the process takes of a CPU for a connection at the highest rate. Of a levee that splices,
    /// that is its handshakes, from AF_XDP to AF_XDP.
    fn at_best(&mut self, rate: u64, results: &mut Results) -> Result<()> {
        if self.running.id().is_none() {
            return Ok(());
        }
        let before = self.usage()?;
        let opened = self.open(REQUESTS, Kind::Request, rate, TRIAL)?;
        let cpu = self.usage()?.since(&before).process.as_secs_f64();
        let per_connection = cpu * 1e6 / opened.samples.len().max(1) as f64;
        let unit = "µs per connection";
        results.add("connections_process", self.system, per_connection, unit);
        Ok(())
    }

    fn open(&mut self, port: u16, kind: Kind, rate: u64, length: Duration) -> Result<Opened> {
        let from = self.from(port);
        open(&from, &mut self.tuples, kind, rate, length)
    }

    fn target(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.system.address(), port)
    }

    fn from(&self, port: u16) -> From {
        From {
            netns: self.lab.client.clone(),
            cpu: None,
            target: self.target(port),
        }
    }

    fn usage(&self) -> Result<Usage> {
        Usage::read(self.running.id(), &self.lab.receivers)
    }
}
