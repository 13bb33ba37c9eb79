//! What the controller's tasks share: the running data path, behind a lock that is only ever held
//! for a few system calls.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use anyhow::Result;
use tokio::sync::watch;
use xdp_common::abi::names;

use crate::{
    config::Service,
    proxy::Proxy,
    reap::Watched,
    running::Running,
    snapshot::{ProxySnapshot, Snapshot},
    splicing::Splicer,
};

/// What is shared.
#[derive(Debug)]
pub struct Shared {
    started: Instant,
    state: Mutex<State>,
    /// Outlives the state: connections go on while levee stops.
    proxy: Mutex<Option<Arc<Proxy>>>,
    splice: Mutex<Option<Splicer>>,
    /// The services whose sockets in the kernel are looked at.
    watched: watch::Sender<Vec<Arc<Watched>>>,
}

/// How far levee has come.
#[derive(Debug)]
enum State {
    Starting,
    Running(Box<Running>),
    /// What it was, as long as there is anything to tell of it.
    Stopping(Option<Box<Running>>),
}

impl Shared {
    /// The state at the start.
    #[must_use]
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            state: Mutex::new(State::Starting),
            proxy: Mutex::default(),
            splice: Mutex::default(),
            watched: watch::Sender::default(),
        }
    }

    /// Since levee started, seconds; monotonic.
    #[must_use]
    pub fn uptime_s(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// levee is attached from now on.
    pub fn run(&self, running: Running) {
        *self.lock() = State::Running(Box::new(running));
    }

    /// Answers no SYN from now on; whoever was answered is still admitted, and spliced connections go
    /// on. False when levee was not running.
    pub fn stop_answering(&self) -> bool {
        let mut state = self.lock();
        let State::Running(mut running) = mem::replace(&mut *state, State::Stopping(None)) else {
            return false;
        };
        if let Err(error) = running.protection.stop() {
            log::error!("cannot stop answering SYNs yet: {error:#}");
        }
        *state = State::Stopping(Some(running));
        true
    }

    /// Puts keys and clock of the data path forward, also while levee stops, and has everything
    /// counted that is counted by the second; `unix_s` is the time in seconds since the Unix epoch.
    /// True when a new epoch of keys began.
    ///
    /// # Errors
    /// Fails when the kernel refuses to tell, or a write.
    pub fn tick(&self, unix_s: u64) -> Result<bool> {
        let uptime_s = self.uptime_s() as u32;
        let (began, control) = match &mut *self.lock() {
            State::Running(running) | State::Stopping(Some(running)) => {
                running.measure(uptime_s)?;
                let began = running.protection.tick(unix_s, uptime_s)?;
                (began, *running.protection.control())
            }
            State::Starting | State::Stopping(None) => return Ok(false),
        };
        if let Some(splicer) = self.splice() {
            splicer.thread.set_clock(control.clock_s);
            splicer.thread.set_keys(control.keys);
        }
        Ok(began)
    }

    /// Detaches everything from the interfaces of a levee that is stopping.
    pub fn detach(&self) {
        if let State::Stopping(Some(running)) = &mut *self.lock() {
            running.detach();
        }
    }

    /// Lets go of the data path without touching it; another levee goes on with it.
    pub fn leave(&self) {
        *self.lock() = State::Stopping(None);
    }

    /// Works on the running levee; `None` when it is not running.
    pub fn with<T>(&self, f: impl FnOnce(&mut Running) -> T) -> Option<T> {
        match &mut *self.lock() {
            State::Running(running) => Some(f(running)),
            State::Starting | State::Stopping(_) => None,
        }
    }

    /// The proxy; `None` as long as no service needed it.
    #[must_use]
    pub fn proxy(&self) -> Option<Arc<Proxy>> {
        self.proxy_lock().clone()
    }

    /// The proxy is there from now on.
    pub fn set_proxy(&self, proxy: Arc<Proxy>) {
        *self.proxy_lock() = Some(proxy);
    }

    /// What splices; `None` as long as no service needed it.
    #[must_use]
    pub fn splice(&self) -> Option<Splicer> {
        self.splice_lock().clone()
    }

    /// Takes away what splices: it ends with the result.
    #[must_use]
    pub fn take_splice(&self) -> Option<Splicer> {
        self.splice_lock().take()
    }

    /// Connections are spliced from now on.
    pub fn set_splice(&self, splicer: Splicer) {
        *self.splice_lock() = Some(splicer);
    }

    /// Has the sockets of these services looked at from now on.
    pub fn watch(&self, services: &[Service]) {
        self.watched.send_modify(|watched| {
            let known: HashMap<_, _> = watched.iter().map(|w| (w.address, Arc::clone(w))).collect();
            let watch = |service: &Service| {
                let previous = known.get(&service.address).map(|known| &**known);
                Arc::new(Watched::new(service, previous))
            };
            *watched = services.iter().map(watch).collect();
        });
    }

    /// The services whose sockets are to be looked at.
    #[must_use]
    pub fn watched(&self) -> watch::Receiver<Vec<Arc<Watched>>> {
        self.watched.subscribe()
    }

    /// Whether levee protects what it should, or why not.
    ///
    /// # Errors
    /// The reason, for an operator.
    pub fn readiness(&self) -> Result<(), String> {
        match &*self.lock() {
            State::Starting => Err("starting: not attached yet".into()),
            State::Stopping(_) => Err("stopping: SYNs are no longer answered by levee".into()),
            State::Running(running) => running.readiness(),
        }
    }

    /// Everything counted, now; `None` when levee is starting, or has stopped.
    ///
    /// # Errors
    /// Fails when the kernel refuses to tell.
    pub fn snapshot(&self) -> Result<Option<Snapshot>> {
        let uptime_s = self.uptime_s();
        let (mut snapshot, stopping) = match &*self.lock() {
            State::Running(running) => (running.snapshot(uptime_s)?, false),
            State::Stopping(Some(running)) => (running.snapshot(uptime_s)?, true),
            State::Starting | State::Stopping(None) => return Ok(None),
        };
        let watched = self.watched.borrow();
        let watched: HashMap<_, _> = watched.iter().map(|w| (w.address, w)).collect();
        for service in &mut snapshot.services {
            let watched = watched.get(&service.address);
            service.kernel = watched.map(|watched| Arc::clone(watched));
        }
        snapshot.proxy = self.proxy().map(|proxy| ProxySnapshot {
            draining: stopping,
            connections_max: proxy.connections_max(),
            limit_entries: proxy.limit_entries(),
            services: proxy.services(),
            workers: proxy.workers(),
        });
        if let Some(splicer) = self.splice() {
            let pressure = splicer.thread.flows() as f64 / f64::from(splicer.thread.capacity());
            snapshot.map_pressure.push((names::FLOWS, pressure));
            snapshot.splice = Some(splicer.snapshot());
        }
        Ok(Some(snapshot))
    }

    fn proxy_lock(&self) -> MutexGuard<'_, Option<Arc<Proxy>>> {
        self.proxy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn splice_lock(&self) -> MutexGuard<'_, Option<Splicer>> {
        self.splice.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere is no reason to stop counting; every change under the lock is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self::new()
    }
}
