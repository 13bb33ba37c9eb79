//! Connections of one run shared out among several processes, for RLIMIT_NOFILE counts by process.
//!
//! Each part is this program again, with a lab, a proxy, clients and backends of its own. All hold
//! their connections at the same time, and all are watched at the same time.
use std::{
    env,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    process::{ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{Held, IdleOptions, Row};
use crate::{bench::proxy::System, interrupt::Interrupt, process::Process};

/// File descriptors besides those of connections.
const DESCRIPTORS_KEPT: u64 = 4096;
/// Each part is a lab with a proxy of its own.
const PARTS_MAX: u64 = 32;

/// What a part says when its connections are open. What it is told then is to measure.
const OPEN: &str = "open";

/// How many processes it takes to hold so many connections. Lets this one and those that it starts
/// have as many file descriptors as they may.
pub(super) fn needed(connections: u32) -> Result<u32> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read RLIMIT_NOFILE")?;
    let wanted = 2 * u64::from(connections) + DESCRIPTORS_KEPT;
    setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard)
        .context("cannot raise RLIMIT_NOFILE")?;
    let each = hard.saturating_sub(DESCRIPTORS_KEPT) / 2;
    let parts = u64::from(connections).div_ceil(each.max(1));
    ensure!(
        parts <= PARTS_MAX,
        "RLIMIT_NOFILE allows a process {hard} file descriptors: {connections} connections would \
         take {parts} processes, and at most {PARTS_MAX} are started"
    );
    Ok(parts as u32)
}

/// Has parts hold and measure; returns their sum.
pub(super) fn measure(
    system: System,
    parts: u32,
    options: &IdleOptions,
    interrupt: &Interrupt,
) -> Result<Row> {
    let mut running = (0..parts)
        .map(|number| {
            let connections = (options.connections + number) / parts;
            Part::start(system, connections, options.seconds)
        })
        .collect::<Result<Vec<_>>>()?;
    for (number, part) in running.iter_mut().enumerate() {
        let answer = part.answer(interrupt)?;
        ensure!(answer == OPEN, "part {number} answers {answer:?}");
        eprintln!("{}: part {number} of {parts} is open", system.name());
    }
    for part in &mut running {
        part.tell()?;
    }
    let mut sum: Option<Row> = None;
    for part in &mut running {
        let answer = part.answer(interrupt)?;
        let row: Row = serde_json::from_str(&answer).context("cannot read a part's answer")?;
        sum = Some(sum.map_or(row, |sum| sum.plus(&row)));
    }
    sum.context("no part was started")
}

/// Is a part.
pub(super) fn hold(options: &IdleOptions, interrupt: &Interrupt) -> Result<()> {
    let &[system] = &options.systems[..] else {
        bail!("a part measures one system");
    };
    let held = Held::open(system, options.connections, interrupt)?;
    println!("{OPEN}");
    let mut told = String::new();
    io::stdin().read_line(&mut told).context("standard input")?;
    // Whoever started it has gone.
    if told.is_empty() {
        return Ok(());
    }
    let row = held.watch(options.seconds, interrupt)?;
    println!("{}", serde_json::to_string(&row)?);
    // The others may not have finished: connections end when standard input does.
    io::stdin()
        .read_to_end(&mut Vec::new())
        .context("standard input")?;
    Ok(())
}

/// A process that holds a share of the connections; dropping it ends it.
struct Part {
    process: Process,
    told: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Part {
    fn start(system: System, connections: u32, seconds: u32) -> Result<Self> {
        let program = env::current_exe().context("cannot tell where this program is")?;
        let name = system.to_possible_value().context("no such system")?;
        let mut command = Command::new(program);
        command
            .args(["bench", "idle", "--part", "--systems"])
            .arg(name.get_name())
            .args(["--connections", &connections.to_string()])
            .args(["--seconds", &seconds.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = Process::spawn("a part", command)?;
        let (told, answers) = process.pipes().context("a part has no pipes")?;
        Ok(Self {
            process,
            told: Some(told),
            answers: BufReader::new(answers),
        })
    }

    fn tell(&mut self) -> Result<()> {
        let told = self.told.as_mut().context("a part is ending")?;
        writeln!(told, "measure").context("a part has ended")
    }

    fn answer(&mut self, interrupt: &Interrupt) -> Result<String> {
        let mut answer = String::new();
        self.answers
            .read_line(&mut answer)
            .context("a part's answer")?;
        interrupt.check()?;
        ensure!(!answer.is_empty(), "a part ended without an answer");
        Ok(answer.trim_end().to_owned())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It ends when nobody can tell it anything; what opens connections still is told by a signal.
        self.told = None;
        if let Err(error) = self.process.terminate() {
            eprintln!("a part does not end: {error:#}");
        }
    }
}
