//! The proxy beside HAProxy, nginx and no proxy at all: requests, bulk data, latency, CPU, memory.
//!
//! All systems are measured in one run, in turns, each in a lab of its own that is built alike.
//! Where there are two CPUs, the proxy's single thread and its interfaces' receive threads have
//! one, the load and the backend the other. `…_proxy_cpu` says how busy the proxy's CPU was: far
//! below 100 % the throughput of that row is the load's limit and not the proxy's, and the CPU per
//! request is what compares.
//!
//! levee's XDP program runs in generic mode: in veth's driver it would need another on the client's
//! end, which would cost the load more than the proxy.
pub(super) mod backend;
pub mod idle;
pub(super) mod load;
pub(super) mod results;
pub(super) mod system;
pub(super) mod usage;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};

pub use self::system::System;
use self::{
    backend::{Backend, REQUESTS, STREAMS},
    load::{Achieved, From, quantile},
    results::Results,
    system::{Running, descriptors_max},
    usage::{Usage, resident_kib},
};
use super::host::Host;
use crate::{
    interrupt::Interrupt,
    proxy_lab::{Links, ProxyLab},
    scheduling::busy_cpus,
};

/// What the user may choose.
#[derive(Clone, Debug)]
pub struct ProxyOptions {
    /// How often everything is measured; medians are reported.
    pub rounds: u32,
    /// How long each load lasts, seconds.
    pub seconds: u32,
    /// What is compared.
    pub systems: Vec<System>,
    /// Print JSON on standard output instead of the table.
    pub json: bool,
}

/// Clients at a time, for requests.
const CLIENTS: usize = 64;
/// Requests per second while latency is measured.
const LATENCY_RATE: u32 = 2_000;
const WARM_UP: Duration = Duration::from_millis(300);
/// Idle connections, where there are file descriptors enough.
const IDLE_MAX: u64 = 10_000;
/// File descriptors that are left for everything else: levee's pipes and reserve, libraries, logs.
const DESCRIPTORS_KEPT: u64 = 2_200;
/// Between opening idle connections and measuring them.
const SETTLE: Duration = Duration::from_secs(1);

/// Measures and prints.
///
/// # Errors
/// Fails when the lab does, when a proxy serves nothing, and on an interrupt.
pub fn run(options: &ProxyOptions, interrupt: &Interrupt) -> Result<()> {
    let idle = (descriptors_max()?.saturating_sub(DESCRIPTORS_KEPT) / 2).min(IDLE_MAX);
    let mut results = Results::default();
    for round in 1..=options.rounds {
        for turn in 0..options.systems.len() {
            // Nobody is always the first, or always behind the same neighbour's heat.
            let system = options.systems[(turn + round as usize) % options.systems.len()];
            interrupt.check()?;
            eprintln!("round {round} of {}: {}", options.rounds, system.name());
            Bench::new(system)?
                .loads(options, interrupt, &mut results)
                .with_context(|| system.name())?;
            // In a lab of its own: memory that the loads have left would be used again for free.
            Bench::new(system)?
                .idle(idle as usize, options, interrupt, &mut results)
                .with_context(|| system.name())?;
        }
        results.add_latency(&options.systems);
    }
    let rows = results.rows();
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    println!("{}", Host::ask()?);
    println!(
        "medians of {} round(s) of {} s each; idle rows: {idle} connections, as many as \
         RLIMIT_NOFILE {} leaves (at most {IDLE_MAX})\n",
        options.rounds,
        options.seconds,
        descriptors_max()?
    );
    results::print_table(&rows, &options.systems);
    Ok(())
}

/// A lab with a system at work in it.
struct Bench {
    system: System,
    lab: ProxyLab,
    running: Running,
    load_cpu: Option<usize>,
    _backend: Backend,
}

impl Bench {
    fn new(system: System) -> Result<Self> {
        let lab = ProxyLab::with(Links::Generic)?;
        let (load_cpu, proxy_cpu) = busy_cpus().unzip();
        let backend = Backend::start(&lab, load_cpu)?;
        let running = system.start(&lab, proxy_cpu)?;
        Ok(Self {
            system,
            lab,
            running,
            load_cpu,
            _backend: backend,
        })
    }

    fn from(&self, port: u16) -> From {
        From {
            netns: self.lab.client.clone(),
            cpu: self.load_cpu,
            target: SocketAddr::new(self.system.address(), port),
        }
    }

    fn usage(&self) -> Result<Usage> {
        Usage::read(self.running.id(), &self.lab.receivers)
    }

    /// Runs one load after a warm-up; returns what it achieved and what the proxy used for it.
    fn measure(
        &self,
        length: Duration,
        load: impl Fn(Duration) -> Result<Achieved>,
    ) -> Result<(Achieved, Usage)> {
        load(WARM_UP)?;
        let before = self.usage()?;
        let achieved = load(length)?;
        let used = self.usage()?.since(&before);
        ensure!(achieved.done > 0, "nothing got through: {achieved:?}");
        Ok((achieved, used))
    }

    fn loads(
        &self,
        options: &ProxyOptions,
        interrupt: &Interrupt,
        results: &mut Results,
    ) -> Result<()> {
        let length = Duration::from_secs(options.seconds.into());
        let (requests, streams) = (self.from(REQUESTS), self.from(STREAMS));
        let mut keep =
            |scenario: &str, value, unit| results.add(scenario, self.system, value, unit);

        let mut load = |scenario: &str, achieved: Achieved, used: Usage, per: Per| {
            let seconds = achieved.elapsed.as_secs_f64();
            let done = achieved.done as f64 / per.divisor;
            let cpu = used.total().as_secs_f64();
            keep(scenario, done / seconds, per.rate);
            keep(&format!("{scenario}_failed"), achieved.failed as f64, "");
            keep(
                &format!("{scenario}_cpu"),
                cpu * 1e6 / (achieved.done as f64 / per.cost_divisor),
                per.cost,
            );
            keep(&format!("{scenario}_proxy_cpu"), cpu / seconds * 100.0, "%");
        };
        let (achieved, used) = self.measure(length, |length| {
            load::connect_per_request(&requests, CLIENTS, length)
        })?;
        load("connect_per_request", achieved, used, Per::REQUEST);
        interrupt.check()?;
        let (achieved, used) = self.measure(length, |length| {
            load::keep_alive(&requests, CLIENTS, length)
        })?;
        load("keep_alive", achieved, used, Per::REQUEST);
        for (scenario, connections) in [("bulk_1", 1), ("bulk_8", 8)] {
            interrupt.check()?;
            let (achieved, used) = self.measure(length, |length| {
                load::streams(&streams, connections, length)
            })?;
            load(scenario, achieved, used, Per::BIT);
        }
        interrupt.check()?;
        let mut samples = load::latencies(&requests, LATENCY_RATE, length)?;
        for (scenario, share) in [("latency_p50", 0.5), ("latency_p99", 0.99)] {
            let latency = quantile(&mut samples, share).as_secs_f64() * 1e6;
            keep(scenario, latency, "µs");
        }
        Ok(())
    }

    /// Memory and CPU of connections on which nothing happens.
    fn idle(
        &self,
        connections: usize,
        options: &ProxyOptions,
        interrupt: &Interrupt,
        results: &mut Results,
    ) -> Result<()> {
        let Some(process) = self.running.id() else {
            return Ok(());
        };
        let before = resident_kib(process)?;
        let open = load::idle(&self.from(REQUESTS), connections)?;
        interrupt.sleep(SETTLE)?;
        let after = resident_kib(process)?;
        let length = Duration::from_secs(options.seconds.into());
        let used = self.usage()?;
        interrupt.sleep(length)?;
        let used = self.usage()?.since(&used);
        let kib = after.saturating_sub(before) as f64 / open.len() as f64;
        results.add("idle_memory", self.system, kib, "KiB per connection");
        results.add(
            "idle_memory_total",
            self.system,
            after as f64 / 1024.0,
            "MiB",
        );
        let share = used.process.as_secs_f64() / length.as_secs_f64() * 100.0;
        results.add("sweep_cpu", self.system, share, "% of a core");
        Ok(())
    }
}

/// What a load counts, and in which units it is reported.
struct Per {
    divisor: f64,
    rate: &'static str,
    cost_divisor: f64,
    cost: &'static str,
}

impl Per {
    const REQUEST: Self = Self {
        divisor: 1.0,
        rate: "requests/s",
        cost_divisor: 1.0,
        cost: "µs per request",
    };
    const BIT: Self = Self {
        divisor: 1e9 / 8.0,
        rate: "Gbit/s",
        cost_divisor: 1e6,
        cost: "µs per MB",
    };
}
