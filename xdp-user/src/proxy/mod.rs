//! The TCP proxy: sockets on one side, the [engine](crate::engine)'s decisions on the other.
//!
//! A connection belongs to one worker from accept to close; workers share only what
//! [`runtime`] and [`stats`] hold.

mod connect;
mod connection;
mod deadlines;
pub mod info;
mod leg;
mod listener;
pub mod runtime;
mod slot;
mod sockopt;
pub mod stats;
#[cfg(test)]
mod tests;
mod thread;
mod transfer;
mod worker;

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use socket2::Socket;
use tokio::{sync::oneshot, time};

use self::{
    info::{Filter, Listing},
    runtime::ServiceRuntime,
    stats::WorkerStats,
    thread::WorkerThread,
    worker::Command,
};
use crate::{
    config::{ProxyGlobals, Service},
    engine::Tick,
    netlink::listener as kernel_listener,
    secret::Secret,
};

/// How often a drain looks whether it is over.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// How long connections that were told to end may take for it.
const END_TIME: Duration = Duration::from_secs(2);

/// The proxy with its threads, listeners and connections. Dropping it closes everything at once.
#[derive(Debug)]
pub struct Proxy {
    start: Instant,
    workers: Vec<WorkerThread>,
    hosted: Mutex<Hosted>,
}

/// What is served.
#[derive(Debug, Default)]
struct Hosted {
    services: Vec<Arc<ServiceRuntime>>,
    /// Where this process listens or listened, perhaps for a moment still.
    addresses: HashSet<SocketAddr>,
}

/// Services that are ready to take the place of those that run.
#[derive(Debug)]
pub struct Staged {
    services: Vec<Arc<ServiceRuntime>>,
    /// For each new address, a listener per worker.
    listeners: Vec<(Arc<ServiceRuntime>, Vec<Socket>)>,
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
    ///
    /// # Errors
    /// Fails when an address cannot be listened at, or the system gives no threads.
    pub fn start(globals: &ProxyGlobals, services: &[Service], _secret: &Secret) -> Result<Self> {
        let cpus = thread::allowed_cpus();
        let count = globals
            .workers
            .map_or_else(|| cpus.len().clamp(1, 256), usize::from);
        let start = Instant::now();
        let workers = (0..count).map(|index| {
            // With fewer or more threads than CPUs the scheduler places them better.
            let cpu = (count == cpus.len()).then(|| cpus[index]);
            WorkerThread::start(index as u16, cpu, start)
        });
        let proxy = Self {
            start,
            workers: workers.collect::<Result<_>>()?,
            hosted: Mutex::default(),
        };
        proxy.commit(proxy.stage(services)?);
        Ok(proxy)
    }

    /// Prepares to serve `services` instead of what is served now, without changing anything yet:
    /// listens at addresses that are new.
    ///
    /// # Errors
    /// Fails when an address cannot be listened at; says which, for which service, and why.
    pub fn stage(&self, services: &[Service]) -> Result<Staged> {
        let now = Tick::of(self.start.elapsed());
        let hosted = self.hosted();
        let mut staged = Staged {
            services: Vec::new(),
            listeners: Vec::new(),
        };
        for service in services {
            let known = |known: &&Arc<ServiceRuntime>| known.name == service.name;
            let previous = hosted.services.iter().find(known);
            let previous = previous.map(|known| &**known);
            let Some(runtime) = ServiceRuntime::new(service, previous, now) else {
                continue;
            };
            let runtime = Arc::new(runtime);
            let address = runtime.address;
            if !hosted.services.iter().any(|known| known.address == address) {
                let sockets = self
                    .listen(address, hosted.addresses.contains(&address))
                    .with_context(|| format!("service {}: cannot listen", runtime.name))?;
                staged.listeners.push((Arc::clone(&runtime), sockets));
            }
            staged.services.push(runtime);
        }
        Ok(staged)
    }

    fn listen(&self, address: SocketAddr, own: bool) -> Result<Vec<Socket>> {
        if !own {
            // SO_REUSEPORT would share the port with another program of the same user in silence.
            let taken = kernel_listener::listeners()?;
            ensure!(
                !taken.iter().any(|listener| listener.serves(address)),
                "another program listens at {address} already"
            );
        }
        (0..self.workers.len())
            .map(|_| listener::bind(address))
            .collect()
    }

    /// Serves what was staged. New clients meet it at once; connections that are there keep what
    /// they were accepted with. At addresses that are served no more nobody new is accepted from
    /// half a second later.
    pub fn commit(&self, staged: Staged) {
        let mut hosted = self.hosted();
        let new: HashSet<_> = staged
            .services
            .iter()
            .map(|service| service.address)
            .collect();
        for old in &hosted.services {
            if !new.contains(&old.address) {
                self.tell_all(|| Command::Retire(old.address));
            }
        }
        let mut added = HashSet::new();
        for (service, sockets) in staged.listeners {
            added.insert(service.address);
            for (worker, socket) in self.workers.iter().zip(sockets) {
                worker.send(Command::Serve(Arc::clone(&service), socket));
            }
        }
        for service in &staged.services {
            if !added.contains(&service.address) {
                self.tell_all(|| Command::Replace(Arc::clone(service)));
            }
        }
        hosted.addresses.extend(new);
        hosted.services = staged.services;
    }

    fn tell_all(&self, command: impl Fn() -> Command) {
        for worker in &self.workers {
            worker.send(command());
        }
    }

    fn hosted(&self) -> MutexGuard<'_, Hosted> {
        self.hosted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When its clock was at 0: every [`Tick`] counts from here.
    #[must_use]
    pub const fn started(&self) -> Instant {
        self.start
    }

    /// The services that are served.
    #[must_use]
    pub fn services(&self) -> Vec<Arc<ServiceRuntime>> {
        self.hosted().services.clone()
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
    /// `deadline` it resets those that have not.
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
        for listeners in closed {
            // A worker that is gone listens no more either.
            listeners.await.ok();
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
