//! The TCP proxy: sockets on one side, the [engine](crate::engine)'s decisions on the other.
//!
//! A connection belongs to one worker from accept to close; workers share only what
//! [`runtime`] and [`stats`] hold.

mod connect;
mod connection;
mod deadlines;
mod fds;
mod header;
mod hosted;
pub mod info;
mod keepalive;
mod leg;
mod listener;
mod pipe;
pub mod runtime;
mod shared;
mod slot;
mod sockopt;
mod staging;
pub mod stats;
#[cfg(test)]
mod tests;
mod thread;
mod transfer;
mod worker;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tokio::{sync::oneshot, time};

use self::{
    fds::Budget,
    info::{Filter, Listing},
    runtime::ServiceRuntime,
    shared::Shared,
    staging::Served,
    stats::WorkerStats,
    thread::WorkerThread,
    worker::Command,
};
pub use self::{listener::BACKLOG, shared::LimitEntries, staging::Staged};
use crate::{
    config::{ProxyGlobals, Service},
    secret::Secret,
    startup::Former,
};

/// Workers at most, however many CPUs there are.
const WORKERS_MAX: usize = 256;

/// How often a drain looks whether it is over.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// How long connections that were told to end may take for it.
const END_TIME: Duration = Duration::from_secs(2);

/// The proxy with its threads, listeners and connections. Dropping it closes everything at once.
#[derive(Debug)]
pub struct Proxy {
    workers: Vec<WorkerThread>,
    served: Mutex<Served>,
    shared: Arc<Shared>,
    start: Instant,
}

/// How a drain went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainReport {
    /// Connections that ended by themselves.
    pub ended: u64,
    /// Connections that were reset because time was over.
    pub reset: u64,
}

impl Proxy {
    /// Listens for the clients of those `services` that are in `proxy` mode, and serves them.
    /// Raises the process's limit on file descriptors as far as needed and possible. Beside a `former`
    /// levee that is leaving, both get clients until its listeners are closed.
    ///
    /// # Errors
    /// Fails when an address cannot be listened at, or the system gives no threads.
    pub fn start(
        globals: &ProxyGlobals,
        services: &[Service],
        secret: &Secret,
        former: Former,
    ) -> Result<Self> {
        let cpus = thread::allowed_cpus();
        let count = globals
            .workers
            .unwrap_or_else(|| cpus.len().clamp(1, WORKERS_MAX) as u16)
            .max(1);
        let proxied = services.iter().filter(|service| service.proxy().is_some());
        let budget = Budget::claim(globals, count, proxied.clone().count());
        let served = match former {
            Former::Dead => Served::default(),
            Former::Leaving => Served::beside(proxied.map(|service| service.address)),
        };
        let shared = Arc::new(Shared::new(globals, budget, count, secret)?);
        let start = Instant::now();
        let workers = (0..count).map(|index| {
            // With fewer or more threads than CPUs the scheduler places them better.
            let all = usize::from(count) == cpus.len();
            let cpu = all.then(|| cpus[usize::from(index)]);
            WorkerThread::start(index, cpu, start, Arc::clone(&shared))
        });
        let proxy = Self {
            workers: workers.collect::<Result<_>>()?,
            served: Mutex::new(served),
            shared,
            start,
        };
        proxy.commit(proxy.stage(services)?);
        Ok(proxy)
    }

    fn tell_all(&self, command: impl Fn() -> Command) {
        for worker in &self.workers {
            worker.send(command());
        }
    }

    fn served(&self) -> MutexGuard<'_, Served> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When its clock was at 0: every [`Tick`] counts from here.
    #[must_use]
    pub const fn started(&self) -> Instant {
        self.start
    }

    /// The services that are served.
    #[must_use]
    pub fn services(&self) -> Vec<Arc<ServiceRuntime>> {
        let served = self.served();
        let runtimes = served.services.iter().map(|hosting| &hosting.runtime);
        runtimes.map(Arc::clone).collect()
    }

    /// Connections that there may be at a time: as configured, or what file descriptors allow.
    #[must_use]
    pub fn connections_max(&self) -> u32 {
        self.shared.connections_max()
    }

    /// What the table of clients holds that bounds are counted in.
    #[must_use]
    pub fn limit_entries(&self) -> LimitEntries {
        self.shared.limit_entries()
    }

    /// What each worker counts.
    #[must_use]
    pub fn workers(&self) -> Vec<Arc<WorkerStats>> {
        let stats = self.workers.iter().map(|worker| Arc::clone(&worker.stats));
        stats.collect()
    }

    /// Connections now.
    #[must_use]
    pub fn connections(&self) -> u64 {
        let each = self.workers.iter().map(|w| w.stats.connections.get());
        each.sum()
    }

    /// Connections that `filter` selects; at most `max` of them with details.
    ///
    /// # Errors
    /// Fails when a worker is gone.
    pub async fn list(&self, filter: &Filter, max: usize) -> Result<Listing> {
        let mut listing = Listing::default();
        for worker in &self.workers {
            let left = max - listing.rows.len();
            let more = ask(worker, |answer| Command::List(filter.clone(), left, answer)).await?;
            listing.rows.extend(more.rows);
            listing.matched += more.matched;
        }
        Ok(listing)
    }

    /// Ends the connections that `filter` selects with a RST to both sides. Returns how many.
    ///
    /// # Errors
    /// Fails when a worker is gone.
    pub async fn kill(&self, filter: &Filter) -> Result<u64> {
        let mut killed = 0;
        for worker in &self.workers {
            killed += ask(worker, |answer| Command::Kill(filter.clone(), answer)).await?;
        }
        Ok(killed)
    }

    /// Accepts who waits, closes the listeners, and waits until all connections have ended; at
    /// `deadline` it resets those that have not. Whoever still waits then, because nobody can be
    /// accepted, is given up; for that there is [`END_TIME`] in any case.
    ///
    /// Can be given up and started again, with another deadline.
    pub async fn drain(&self, deadline: Instant) -> DrainReport {
        let mut closed = Vec::new();
        for worker in &self.workers {
            let (answer, told) = oneshot::channel();
            if worker.send(Command::Drain(answer)) {
                closed.push(told);
            }
        }
        let accepting_ends = deadline.max(Instant::now() + END_TIME);
        for listeners in closed {
            // A worker that is gone listens no more either.
            time::timeout_at(accepting_ends.into(), listeners)
                .await
                .ok();
        }
        let before = self.connections();
        self.wait_until(deadline).await;
        let left = self.connections();
        self.tell_all(|| Command::DrainExpired);
        self.wait_until(Instant::now() + END_TIME).await;
        DrainReport {
            ended: before.saturating_sub(left),
            reset: left,
        }
    }

    /// Waits until no connection is left, or until `deadline`.
    async fn wait_until(&self, deadline: Instant) {
        while self.connections() > 0 && Instant::now() < deadline {
            time::sleep(DRAIN_LOOK).await;
        }
    }
}

/// Asks a worker and waits for its answer.
async fn ask<T>(
    worker: &WorkerThread,
    command: impl FnOnce(oneshot::Sender<T>) -> Command,
) -> Result<T> {
    let (answer, told) = oneshot::channel();
    worker.send(command(answer));
    told.await.context("a thread of the proxy is gone")
}
