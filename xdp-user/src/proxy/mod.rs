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
pub mod stats;
#[cfg(test)]
mod tests;
mod thread;
mod transfer;
mod worker;

use std::{
    collections::HashSet,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use socket2::Socket;
use tokio::{sync::oneshot, time};

use self::{
    fds::Budget,
    hosted::Hosting,
    info::{Filter, Listing},
    runtime::ServiceRuntime,
    shared::Shared,
    stats::WorkerStats,
    thread::WorkerThread,
    worker::Command,
};
pub use self::{listener::BACKLOG, shared::LimitEntries};
use crate::{
    config::{ProxyGlobals, Service},
    engine::Tick,
    netlink::listener as kernel_listener,
    secret::Secret,
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

/// What is served.
#[derive(Debug, Default)]
struct Served {
    services: Vec<Hosting>,
    /// Names of services, now and before. The position is the number in the table of clients.
    names: Vec<String>,
    /// Where this process listens or listened, perhaps for a moment still.
    addresses: HashSet<SocketAddr>,
}

/// Services that are ready to take the place of those that run.
#[derive(Debug)]
pub struct Staged {
    services: Vec<Hosting>,
    /// For each new address, a listener per worker.
    listeners: Vec<(Hosting, Vec<Socket>)>,
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
    /// Raises the process's limit on file descriptors as far as needed and possible.
    ///
    /// # Errors
    /// Fails when an address cannot be listened at, or the system gives no threads.
    pub fn start(globals: &ProxyGlobals, services: &[Service], secret: &Secret) -> Result<Self> {
        let cpus = thread::allowed_cpus();
        let count = globals
            .workers
            .unwrap_or_else(|| cpus.len().clamp(1, WORKERS_MAX) as u16)
            .max(1);
        let proxied = services.iter().filter(|service| service.proxy().is_some());
        let budget = Budget::claim(globals, count, proxied.count());
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
            served: Mutex::default(),
            shared,
            start,
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
        let mut served = self.served();
        let mut staged = Staged {
            services: Vec::new(),
            listeners: Vec::new(),
        };
        for service in services {
            let known = |known: &&Hosting| known.runtime.name == service.name;
            let previous = served.services.iter().find(known);
            let previous = previous.map(|known| &*known.runtime);
            let Some(runtime) = ServiceRuntime::new(service, previous, now) else {
                continue;
            };
            let address = runtime.address;
            let here = |known: &Hosting| known.runtime.address == address;
            let is_new = !served.services.iter().any(here);
            let hosting = Hosting {
                number: served.number(&runtime.name),
                runtime: Arc::new(runtime),
                oldest_ms: self.workers.iter().map(|_| AtomicU64::new(0)).collect(),
            };
            if is_new {
                let own = served.addresses.contains(&address);
                let sockets = self.listen(&hosting.runtime, own)?;
                staged.listeners.push((hosting.clone(), sockets));
            }
            staged.services.push(hosting);
        }
        Ok(staged)
    }

    fn listen(&self, service: &ServiceRuntime, own: bool) -> Result<Vec<Socket>> {
        let (name, address) = (&service.name, service.address);
        // SO_REUSEPORT would share the port with another program of the same user in silence.
        let taken = !own
            && kernel_listener::listeners()?
                .iter()
                .any(|listener| listener.serves(address));
        ensure!(
            !taken,
            "service {name} cannot listen at {address}: another program listens there already"
        );
        let socket = || {
            listener::bind(address, &service.config).map_err(|error| {
                let reason = match error.kind() {
                    io::ErrorKind::AddrInUse => "another program listens there already",
                    io::ErrorKind::AddrNotAvailable => "that is not an address of this machine",
                    _ => "the system refuses",
                };
                anyhow!(error).context(format!(
                    "service {name} cannot listen at {address}: {reason}"
                ))
            })
        };
        self.workers.iter().map(|_| socket()).collect()
    }

    /// Serves what was staged. New clients meet it at once; connections that are there keep what
    /// they were accepted with. At addresses that are served no more nobody new is accepted from
    /// half a second later.
    pub fn commit(&self, staged: Staged) {
        let mut served = self.served();
        let address = |hosting: &Hosting| hosting.runtime.address;
        let wanted: HashSet<_> = staged.services.iter().map(address).collect();
        for old in &served.services {
            if !wanted.contains(&address(old)) {
                self.tell_all(|| Command::Retire(address(old)));
            }
        }
        let added: HashSet<_> = staged
            .listeners
            .iter()
            .map(|(new, _)| address(new))
            .collect();
        for (hosting, sockets) in staged.listeners {
            for (worker, socket) in self.workers.iter().zip(sockets) {
                worker.send(Command::Serve(hosting.clone(), socket));
            }
        }
        for hosting in &staged.services {
            if !added.contains(&address(hosting)) {
                self.tell_all(|| Command::Replace(hosting.clone()));
            }
        }
        served.addresses.extend(wanted);
        served.services = staged.services;
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

impl Served {
    /// The number of a service, which it keeps.
    fn number(&mut self, name: &str) -> u16 {
        let known = self.names.iter().position(|known| known == name);
        let position = known.unwrap_or_else(|| {
            self.names.push(name.into());
            self.names.len() - 1
        });
        // After 65,536 names numbers begin again; services that share one share its clients.
        position as u16
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
