//! A hundred thousand clients that say nothing: what each costs a proxy in memory, and what looking
//! after all of them costs in CPU.
//!
//! Client and backend are threads of this process, so it needs as many file descriptors as the
//! proxy. Where one process may not have as many, several hold a share each: see [`parts`].
mod parts;
mod peers;
mod running;

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use self::{
    peers::{Backend, clients, is_open},
    running::Running,
};
use super::{System, usage::Usage};
use crate::{
    interrupt::Interrupt,
    proxy_lab::{BACKEND, ProxyLab},
};

/// What the user may choose.
#[derive(Clone, Debug)]
pub struct IdleOptions {
    /// Connections to each system.
    pub connections: u32,
    /// How long they are watched, seconds.
    pub seconds: u32,
    /// What is measured.
    pub systems: Vec<System>,
    /// Whether this process is one of several that another has started.
    pub part: bool,
}

/// Most that the lab's ports and a guest's memory allow.
pub const CONNECTIONS_MAX: u32 = 150_000;

const PORT: u16 = 8000;
/// The proxy's ports towards one address and port of a backend do not suffice.
const BACKEND_PORTS: [u16; 4] = [8000, 8001, 8002, 8003];
const SETTLE: Duration = Duration::from_secs(3);

/// Measures and prints.
///
/// # Errors
/// Fails when the lab does, when file descriptors do not suffice, and on an interrupt.
pub fn run(options: &IdleOptions, interrupt: &Interrupt) -> Result<()> {
    let parts = parts::needed(options.connections)?;
    if options.part {
        return parts::hold(options, interrupt);
    }
    println!(
        "{:<14} {:>12} {:>10} {:>12} {:>12} {:>14} {:>10} {:>10}",
        "system",
        "connections",
        "processes",
        "RSS before",
        "RSS after",
        "per connection",
        "CPU",
        "sweeps"
    );
    for &system in &options.systems {
        let measured = if parts == 1 {
            Held::open(system, options.connections, interrupt)
                .and_then(|held| held.watch(options.seconds, interrupt))
        } else {
            parts::measure(system, parts, options, interrupt)
        };
        let row = measured.with_context(|| system.name())?;
        println!(
            "{:<14} {:>12} {parts:>10} {:>8} KiB {:>8} KiB {:>10.2} KiB {:>8.2} % {:>10}",
            system.name(),
            options.connections,
            row.before_kib,
            row.after_kib,
            row.after_kib.saturating_sub(row.before_kib) as f64 / f64::from(options.connections),
            row.cpu * 100.0,
            row.sweeps
                .map_or_else(|| "-".to_owned(), |share| format!("{:.3} %", share * 100.0)),
        );
    }
    Ok(())
}

/// What was measured of one proxy, or of several together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Row {
    before_kib: u64,
    after_kib: u64,
    /// Of the process, of one core.
    cpu: f64,
    /// Of levee's sweeps over deadlines, of one core.
    sweeps: Option<f64>,
}

impl Row {
    /// Both together.
    fn plus(&self, other: &Self) -> Self {
        Self {
            before_kib: self.before_kib + other.before_kib,
            after_kib: self.after_kib + other.after_kib,
            cpu: self.cpu + other.cpu,
            sweeps: self
                .sweeps
                .zip(other.sweeps)
                .map(|(one, other)| one + other),
        }
    }
}

/// A proxy that holds connections on which nothing happens; dropping it ends them.
struct Held {
    before_kib: u64,
    clients: Vec<TcpStream>,
    running: Running,
    _backends: Vec<Backend>,
    _lab: ProxyLab,
}

impl Held {
    fn open(system: System, connections: u32, interrupt: &Interrupt) -> Result<Self> {
        let lab = ProxyLab::new()?;
        let backends = BACKEND_PORTS
            .map(|port| Backend::start(&lab, SocketAddr::new(BACKEND[0], port)))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let running = Running::start(system, &lab, connections)?;
        let before_kib = resident_kib(running.id())?;
        let clients = clients(&lab, connections as usize, interrupt)?;
        interrupt.sleep(SETTLE)?;
        Ok(Self {
            before_kib,
            clients,
            running,
            _backends: backends,
            _lab: lab,
        })
    }

    /// Measures for so many seconds, and makes sure that all connections are still there.
    fn watch(&self, seconds: u32, interrupt: &Interrupt) -> Result<Row> {
        let running = &self.running;
        let usage = || Usage::read(Some(running.id()), &[]);
        let after_kib = resident_kib(running.id())?;
        let (start, used, swept) = (Instant::now(), usage()?, running.swept()?);
        interrupt.sleep(Duration::from_secs(seconds.into()))?;
        let (used, now) = (usage()?.since(&used), running.swept()?);
        let elapsed = start.elapsed().as_secs_f64();
        for (number, client) in self.clients.iter().enumerate() {
            is_open(client).with_context(|| format!("connection {number} has ended"))?;
        }
        Ok(Row {
            before_kib: self.before_kib,
            after_kib,
            cpu: used.process.as_secs_f64() / elapsed,
            sweeps: swept.zip(now).map(|(before, now)| (now - before) / elapsed),
        })
    }
}

/// Resident memory, its program text included, KiB.
fn resident_kib(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("no VmRSS in {path}"))
}
