//! A service at one worker: whom it serves now, with which backends.

use std::{
    cell::{Cell, RefCell},
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::Waker,
    time::Duration,
};

use socket2::Socket;

use super::{
    keepalive,
    runtime::{ActiveGuard, Pool, ServiceRuntime},
    shared::Shared,
};
use crate::{
    config::Keepalive,
    engine::{
        Tick,
        balancer::{BackendKey, BackendSet, Balancer, Candidate},
        half_open::{HalfOpenQueue, Place},
        reason::Refusal,
        tcp::Side,
    },
};

/// A service and what its workers tell each other about it.
#[derive(Clone, Debug)]
pub(super) struct Hosting {
    /// The service as configured.
    pub(super) runtime: Arc<ServiceRuntime>,
    /// Its number in the table of clients.
    pub(super) number: u16,
    /// By worker, the age of the oldest connect in progress, milliseconds.
    pub(super) oldest_ms: Arc<[AtomicU64]>,
}

/// A service at one worker.
#[derive(Debug)]
pub(super) struct Hosted {
    hosting: RefCell<Hosting>,
    /// The probes that accepted sockets inherit: those of when the listener was made.
    inherited: Option<Keepalive>,
    choice: RefCell<Choice>,
    half_open: RefCell<HalfOpenQueue>,
    retired: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// Which backends an attempt to connect has tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tried {
    backends: BackendSet,
    /// Of which pool.
    generation: u32,
}

impl Hosted {
    /// A service whose clients will be accepted.
    pub(super) fn new(hosting: Hosting, worker: u16, shared: &Shared) -> Self {
        let choice = Choice::new(&hosting.runtime, worker, shared, 0);
        let half_open = HalfOpenQueue::new(half_open_max(&hosting, shared));
        Self {
            inherited: hosting.runtime.config.keepalive[Side::Client.index()],
            hosting: RefCell::new(hosting),
            choice: RefCell::new(choice),
            half_open: RefCell::new(half_open),
            retired: Cell::new(false),
            waker: RefCell::new(None),
        }
    }

    /// Serves new clients as configured in `hosting`.
    pub(super) fn replace(&self, hosting: Hosting, worker: u16, shared: &Shared) {
        self.half_open
            .borrow_mut()
            .set_bound(half_open_max(&hosting, shared));
        let mut choice = self.choice.borrow_mut();
        *choice = Choice::new(&hosting.runtime, worker, shared, choice.generation + 1);
        self.hosting.replace(hosting);
    }

    /// Sets the probes that are configured now on an accepted socket, where it has others.
    pub(super) fn set_keepalive(&self, client: &Socket) -> io::Result<()> {
        let wanted = self.hosting.borrow().runtime.config.keepalive[Side::Client.index()];
        if wanted == self.inherited {
            return Ok(());
        }
        keepalive::set(client, wanted)
    }

    /// The service as configured now.
    pub(super) fn hosting(&self) -> Hosting {
        self.hosting.borrow().clone()
    }

    /// Takes a place at the backend that is `client`'s turn, one that was not tried if there is
    /// one; `None` when there is none.
    pub(super) fn pick(
        &self,
        client: IpAddr,
        tried: &mut Tried,
        worker: u16,
        shared: &Shared,
    ) -> Option<ActiveGuard> {
        let hosting = self.hosting.borrow();
        let mut choice = self.choice.borrow_mut();
        if choice.version != hosting.runtime.pool.version() {
            *choice = Choice::new(&hosting.runtime, worker, shared, choice.generation + 1);
        }
        if tried.generation != choice.generation {
            *tried = Tried {
                backends: 0,
                generation: choice.generation,
            };
        }
        choice.pick(client, &mut tried.backends)
    }

    /// Turns a client away that was just accepted.
    pub(super) fn refuse(&self, client: Socket, reason: Refusal) {
        self.hosting.borrow().runtime.stats.refused[reason.index()].count();
        // Without the option closing sends a FIN, which is as much as can be done then.
        client.set_linger(Some(Duration::ZERO)).ok();
    }

    /// Takes a place in the half-open queue.
    pub(super) fn enter_half_open(&self, now: Tick, key: u32, spoke: bool) -> Place {
        self.half_open.borrow_mut().enter(now, key, spoke)
    }

    /// The client has sent something.
    pub(super) fn spoke(&self, key: u32) {
        self.half_open.borrow_mut().spoke(key);
    }

    /// Gives the place in the half-open queue back. False if it has none.
    pub(super) fn leave_half_open(&self, now: Tick, key: u32) -> bool {
        self.half_open.borrow_mut().leave(now, key).is_some()
    }

    /// Publishes how old the oldest connect in progress is.
    pub(super) fn tell_age(&self, now: Tick, worker: u16) {
        let hosting = self.hosting.borrow();
        let age_ms = self.half_open.borrow().oldest_age_ms(now);
        hosting.oldest_ms[usize::from(worker)].store(age_ms, Relaxed);
        let ages = hosting.oldest_ms.iter().map(|age| age.load(Relaxed));
        let oldest_ms = ages.max().unwrap_or(0);
        let gauge = &hosting.runtime.stats.half_open_oldest_ms;
        gauge.set(i64::try_from(oldest_ms).unwrap_or(i64::MAX));
    }

    /// Lets the listener close as soon as nobody waits to be accepted.
    pub(super) fn retire(&self) {
        self.retired.set(true);
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Whether it was [retired](Self::retire); if not, `waker` is woken when it is.
    pub(super) fn is_retired(&self, waker: &Waker) -> bool {
        let mut known = self.waker.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
        self.retired.get()
    }
}

/// The worker's part of the bound, at least one.
fn half_open_max(hosting: &Hosting, shared: &Shared) -> u32 {
    let max = hosting.runtime.config.half_open_max;
    max.div_ceil(u32::from(shared.workers))
}

/// The pool in force and whose turn it is.
struct Choice {
    pool: Arc<Pool>,
    version: u32,
    /// Counts the pools.
    generation: u32,
    balancer: Balancer,
    candidates: Vec<Candidate>,
}

impl std::fmt::Debug for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Choice")
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl Choice {
    fn new(runtime: &ServiceRuntime, worker: u16, shared: &Shared, generation: u32) -> Self {
        // The version first: a pool that comes in between is seen at the next look.
        let version = runtime.pool.version();
        let pool = runtime.pool.load();
        let backends = pool.backends.iter();
        let (keys, weights): (Vec<_>, Vec<_>) = backends
            .map(|backend| {
                let key = BackendKey::new(&backend.name, backend.address);
                (key, backend.weight)
            })
            .unzip();
        let balance = runtime.config.balance;
        let mut choice = Self {
            pool,
            version,
            generation,
            balancer: Balancer::new(balance, &keys, &weights, shared.client_hash_key),
            candidates: Vec::with_capacity(keys.len()),
        };
        choice.look();
        let turns = usize::from(worker);
        choice.balancer.skip(&choice.candidates, turns);
        choice
    }

    /// How the backends stand now.
    fn look(&mut self) {
        self.candidates.clear();
        let backends = self.pool.backends.iter();
        self.candidates.extend(backends.map(|backend| Candidate {
            weight: backend.weight_now.load(Relaxed),
            active: backend.active.load(Relaxed),
            max: backend.connections_max,
            usable: backend.usable.load(Relaxed),
        }));
    }

    fn pick(&mut self, client: IpAddr, tried: &mut BackendSet) -> Option<ActiveGuard> {
        self.look();
        if let Some(guard) = self.take(client, tried) {
            return Some(guard);
        }
        // Everybody was tried: once more, then.
        *tried = 0;
        self.take(client, tried)
    }

    fn take(&mut self, client: IpAddr, tried: &mut BackendSet) -> Option<ActiveGuard> {
        loop {
            let position = self.balancer.pick(&self.candidates, client, *tried)?;
            *tried |= 1 << position;
            // Another worker may have taken the last place in the meantime.
            if let Some(guard) = self.pool.backends[position].try_take() {
                return Some(guard);
            }
        }
    }
}
