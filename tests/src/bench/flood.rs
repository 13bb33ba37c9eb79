//! How much flood each system stands: the highest rate of SYNs at which at least 99 % of 500
//! legitimate HTTP connections succeed, and how many SYNs it answers when there is no limit.
//!
//! All systems are measured in one run, in turns, on labs that are built alike; quote ratios of one
//! run, for absolute numbers vary between runs and machines.
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{
    median::median,
    search::{Ladder, Search, Trial},
};
use crate::{
    client::{Load, LoadSpec},
    flood::{FloodKind, FloodSpec},
    format::{percent, quantity},
    interrupt::Interrupt,
    observer::{Rates, Reading},
    protection::{Protection, System},
    server::Nginx,
    stats::Summary,
    topology::{Lab, LabOptions, host_addresses},
};

/// What the user may choose.
#[derive(Clone, Copy, Debug)]
pub struct BenchOptions {
    /// How often everything is measured; medians are reported.
    pub rounds: u32,
    /// Print JSON on standard output instead of the table.
    pub json: bool,
}

const PORT: u16 = 80;
/// Legitimate connections per trial.
const CONNECTS: u32 = 500;
/// How many of them are opened per second.
const CONNECT_RATE: u32 = 250;
/// A connection that has not delivered its page by then has failed. A lost SYN is sent again after
/// 1 s and 3 s, so up to one loss can be made good.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The flood runs this long before the first connection.
const WARM_UP: Duration = Duration::from_millis(500);
/// Between two trials on one machine.
const REST: Duration = Duration::from_millis(300);
/// A trial's flood ends by itself after this, whatever happens to the rest.
const TRIAL_MAX: Duration = Duration::from_secs(10);
/// How long the unlimited flood is measured.
const SATURATION: Duration = Duration::from_secs(2);

/// From 10,000 SYNs per second in steps of 8 % to some 10 million.
const LADDER: Ladder = Ladder {
    start: 10_000.0,
    step: 1.08,
    rungs: 90,
};

/// The systems compared, in the order of their turns.
const COMPARED: [System; 3] = [System::Levee, System::Syncookies, System::Synproxy];

/// One system's result.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// See [`System::name`].
    pub name: &'static str,
    /// Highest offered rate at which at least 99 % of the connections succeeded, SYNs per second;
    /// 0 when not even the lowest was stood.
    pub max_pps_99: u64,
    /// SYNs answered per second under an unlimited flood.
    pub saturated_answers_pps: u64,
    /// The same as a share of what a bare `XDP_TX` sends back.
    pub share_of_xdp_tx: f64,
}

/// Measures and prints.
///
/// # Errors
/// Fails when the lab does, and on an interrupt.
pub fn run(options: BenchOptions, interrupt: &Interrupt) -> Result<()> {
    let mut systems = COMPARED.map(Candidate::new);
    let mut bounce = Candidate::new(System::XdpTx);
    let mut delivered = Vec::new();
    for round in 1..=options.rounds.max(1) {
        eprintln!(
            "round {round} of {}: unlimited flood",
            options.rounds.max(1)
        );
        for candidate in systems.iter_mut().chain([&mut bounce]) {
            interrupt.check()?;
            let answers = saturate(candidate.system, interrupt)?.answered;
            eprintln!(
                "  {:<16} {:>8} answers/s",
                candidate.system.name(),
                quantity(answers)
            );
            candidate.saturated.push(answers);
        }
        delivered.push(saturate(System::XdpDrop, interrupt)?.received);
        eprintln!("round {round}: search for the highest rate with 99 % success");
        let mut searches = COMPARED.map(|_| Search::new(LADDER));
        while searches.iter().any(|search| search.next_rung().is_some()) {
            for (candidate, search) in systems.iter_mut().zip(&mut searches) {
                if let Some(rung) = search.next_rung() {
                    search.record(rung, trial(candidate.system, rung, interrupt)?);
                }
            }
        }
        for (candidate, search) in systems.iter_mut().zip(&searches) {
            candidate.max.push(search.best);
        }
    }
    let ceiling = median(&mut bounce.saturated);
    let outcomes: Vec<Outcome> = systems
        .iter_mut()
        .map(|candidate| candidate.outcome(ceiling))
        .collect();
    if options.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&outcomes).context("cannot write JSON")?
        );
    } else {
        print_table(&outcomes, ceiling);
        println!(
            "the generator delivers {}/s to a bare XDP_DROP",
            quantity(median(&mut delivered))
        );
    }
    Ok(())
}

/// A system and its measurements, one per round.
struct Candidate {
    system: System,
    max: Vec<f64>,
    saturated: Vec<f64>,
}

impl Candidate {
    fn new(system: System) -> Self {
        Self {
            system,
            max: Vec::new(),
            saturated: Vec::new(),
        }
    }

    fn outcome(&mut self, ceiling: f64) -> Outcome {
        let saturated = median(&mut self.saturated);
        Outcome {
            name: self.system.name(),
            max_pps_99: median(&mut self.max) as u64,
            saturated_answers_pps: saturated as u64,
            share_of_xdp_tx: saturated / ceiling,
        }
    }
}

/// A lab with a server and a system in front of it, new for every measurement, so that none starts
/// with what another has left in queues and tables.
struct Bench {
    lab: Lab,
    protection: Protection,
    _server: Nginx,
}

impl Bench {
    fn new(system: System) -> Result<Self> {
        let lab = Lab::new(&LabOptions::default())?;
        let services = host_addresses(PORT);
        let server = Nginx::start(&lab.host, &services)?;
        let protection = system.start(&lab, &services)?;
        Ok(Self {
            lab,
            protection,
            _server: server,
        })
    }

    fn flood(&self, rate: Option<u64>) -> Result<crate::flood::Flood> {
        self.lab.flood(FloodSpec {
            target: host_addresses(PORT)[0],
            kind: FloodKind::Syn,
            rate,
            seed: 1,
            count_max: u64::MAX,
            duration_max: TRIAL_MAX,
        })
    }
}

fn trial(system: System, rung: usize, interrupt: &Interrupt) -> Result<Trial> {
    let bench = Bench::new(system)?;
    let flood = bench.flood(Some(LADDER.rate(rung)))?;
    interrupt.sleep(WARM_UP)?;
    let spec = LoadSpec {
        target: host_addresses(PORT)[0],
        rate: CONNECT_RATE,
        count: CONNECTS,
        timeout: CONNECT_TIMEOUT,
    };
    let samples = Load::start(&bench.lab.client, spec)?.join()?;
    let sent = flood.stop()?;
    let summary = Summary::new(&samples);
    eprintln!(
        "  {:<16} {:>8} SYNs/s offered, {:>7} of {} connections succeeded",
        system.name(),
        quantity(sent.rate()),
        percent(summary.success()),
        summary.ended,
    );
    drop(bench);
    interrupt.sleep(REST)?;
    Ok(Trial {
        offered: sent.rate(),
        succeeded: summary.succeeds(),
    })
}

/// What happens per second under an unlimited flood.
fn saturate(system: System, interrupt: &Interrupt) -> Result<Rates> {
    let mut bench = Bench::new(system)?;
    let flood = bench.flood(None)?;
    interrupt.sleep(WARM_UP)?;
    let levee = bench.protection.levee();
    let start = Reading::take(&mut bench.lab, Some(&flood), levee)?;
    interrupt.sleep(SATURATION)?;
    let end = Reading::take(&mut bench.lab, Some(&flood), levee)?;
    flood.stop()?;
    Ok(end.since(&start))
}

fn print_table(outcomes: &[Outcome], ceiling: f64) {
    println!(
        "{:<16} {:>22} {:>20} {:>18}",
        "system", "max SYNs/s at 99 %", "answered, saturated", "share of XDP_TX"
    );
    for outcome in outcomes {
        println!(
            "{:<16} {:>22} {:>18}/s {:>18}",
            outcome.name,
            quantity(outcome.max_pps_99 as f64),
            quantity(outcome.saturated_answers_pps as f64),
            percent(Some(outcome.share_of_xdp_tx)),
        );
    }
    println!("bare XDP_TX in the same run: {}/s", quantity(ceiling));
    if let [levee, others @ ..] = outcomes {
        let best = others
            .iter()
            .map(|other| other.max_pps_99)
            .max()
            .unwrap_or(0);
        if best > 0 {
            println!(
                "levee stands {:.1} times the flood of the better of the others",
                levee.max_pps_99 as f64 / best as f64
            );
        }
    }
}
