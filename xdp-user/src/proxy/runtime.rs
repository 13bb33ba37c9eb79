//! Services and backends as they run: what workers, health checks, resolver and metrics share.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering::Relaxed},
    },
};

use super::stats::{BackendStats, ServiceStats};
use crate::{
    backends::health::BackendHealth,
    config::{BACKENDS_MAX, Backend, ProxyService, Service, Target},
    engine::{Tick, balancer::in_force},
};

/// A service with backends that runs: in `proxy` mode, or, as far as its backends are concerned, in
/// `splice` mode.
#[derive(Debug)]
pub struct ServiceRuntime {
    /// Its name: the metric label.
    pub name: String,
    /// Where clients connect to.
    pub address: SocketAddr,
    /// What is configured for it.
    pub config: Arc<ProxyService>,
    /// Its backends.
    pub pool: PoolCell,
    /// What is counted for it. A reload keeps it.
    pub stats: Arc<ServiceStats>,
    /// Connections now. A reload keeps it.
    pub active: Arc<AtomicU32>,
    /// By position in the configured backends: whether the last look-up of its name succeeded.
    /// Always true for one that is configured by address.
    pub resolved: Vec<AtomicBool>,
}

impl ServiceRuntime {
    /// A service as configured, with the backends whose addresses are known: by configuration, or
    /// because `previous` had resolved the same name. `None` when it has none. What `previous`
    /// counted goes on.
    #[must_use]
    pub fn new(service: &Service, previous: Option<&Self>, now: Tick) -> Option<Self> {
        let config = service.pooled()?;
        let kept = previous.map(|previous| previous.pool.load());
        let known = kept.as_ref().map_or(&[][..], |pool| &pool.backends);
        let mut addresses = Vec::new();
        let mut resolved = Vec::new();
        for backend in &config.backends {
            let before = addresses.len();
            match backend.target {
                Target::Address(address) => addresses.push((backend, address)),
                Target::Name { .. } => addresses.extend(
                    known
                        .iter()
                        .filter(|known| {
                            known.name == backend.name && known.target == backend.target
                        })
                        .map(|known| (backend, known.address)),
                ),
            }
            resolved.push(AtomicBool::new(addresses.len() > before));
        }
        addresses.truncate(BACKENDS_MAX);
        let pool = Pool::new(addresses, kept.as_deref(), now, config.check.is_some());
        let (stats, active) = previous.map_or_else(Default::default, |previous| {
            (Arc::clone(&previous.stats), Arc::clone(&previous.active))
        });
        Some(Self {
            name: service.name.clone(),
            address: service.address,
            config: Arc::clone(config),
            pool: PoolCell::new(pool),
            stats,
            active,
            resolved,
        })
    }
}

/// The pool in force; a new one replaces it whole.
#[derive(Debug)]
pub struct PoolCell {
    pool: Mutex<Arc<Pool>>,
    version: AtomicU32,
}

impl PoolCell {
    fn new(pool: Pool) -> Self {
        Self {
            pool: Mutex::new(Arc::new(pool)),
            version: AtomicU32::new(0),
        }
    }

    /// The pool in force.
    #[must_use]
    pub fn load(&self) -> Arc<Pool> {
        Arc::clone(&self.pool.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another pool in force.
    pub fn store(&self, pool: Pool) {
        *self.pool.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(pool);
        self.version.fetch_add(1, Relaxed);
    }

    /// Looks at the pool in force while nobody else may replace it or [look at](Self::with) it.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&Pool) -> R) -> R {
        look(&self.pool.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes with every [`store`](Self::store): who keeps a pool looks here whether it still is
    /// the one in force.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version.load(Relaxed)
    }
}

/// The backends of a service, names resolved.
#[derive(Debug, Default)]
pub struct Pool {
    /// At most [`BACKENDS_MAX`](crate::config::BACKENDS_MAX).
    pub backends: Vec<Arc<BackendRuntime>>,
}

impl Pool {
    /// A pool of these addresses. A backend that `previous` has under the same name and address
    /// goes on with its counters, its connections and its health; one that is new to a pool with
    /// others starts slowly. `checked` tells whether there are active checks.
    pub fn new<'b>(
        backends: impl IntoIterator<Item = (&'b Backend, SocketAddr)>,
        previous: Option<&Self>,
        now: Tick,
        checked: bool,
    ) -> Self {
        let joins = previous.is_some_and(|pool| !pool.backends.is_empty());
        let backends = backends.into_iter().map(|(backend, address)| {
            let known = previous.and_then(|pool| {
                let mut known = pool.backends.iter();
                known.find(|known| known.is(backend, address))
            });
            match known {
                Some(known) if known.shares_as(backend) => Arc::clone(known),
                Some(known) => Arc::new(known.sharing_as(backend)),
                None => {
                    let health = BackendHealth::new(now, checked, joins);
                    Arc::new(BackendRuntime::new(backend, address, health))
                }
            }
        });
        Self {
            backends: backends.collect(),
        }
    }
}

/// One address of a backend.
#[derive(Debug)]
pub struct BackendRuntime {
    /// The configured name: the metric label.
    pub name: String,
    /// Where it is.
    pub address: SocketAddr,
    /// What is configured: this address, or the name that led to it.
    pub target: Target,
    /// Configured weight.
    pub weight: u16,
    /// Bound on its connections; 0 for none.
    pub connections_max: u32,
    /// Connections now, those in progress included.
    pub active: Arc<AtomicU32>,
    /// Whether it may get new connections.
    pub usable: AtomicBool,
    /// The weight in force, in parts of [`WEIGHT_UNIT`](crate::engine::balancer::WEIGHT_UNIT): less
    /// than [`weight`](Self::weight) in a slow start.
    pub weight_now: AtomicU16,
    /// What checks and connects have told.
    pub(crate) health: Arc<Mutex<BackendHealth>>,
    /// Whether the last connect that told something about it failed. Who connected need not take
    /// the lock unless it is set.
    pub(crate) failing: Arc<AtomicBool>,
    /// What is counted for it.
    pub stats: Arc<BackendStats>,
}

impl BackendRuntime {
    fn new(backend: &Backend, address: SocketAddr, health: BackendHealth) -> Self {
        Self {
            name: backend.name.clone(),
            address,
            target: backend.target.clone(),
            weight: backend.weight,
            connections_max: backend.connections_max,
            active: Arc::default(),
            usable: AtomicBool::new(true),
            weight_now: AtomicU16::new(in_force(backend.weight)),
            health: Arc::new(Mutex::new(health)),
            failing: Arc::default(),
            stats: Arc::default(),
        }
    }

    fn is(&self, backend: &Backend, address: SocketAddr) -> bool {
        self.name == backend.name && self.address == address && self.target == backend.target
    }

    const fn shares_as(&self, backend: &Backend) -> bool {
        self.weight == backend.weight && self.connections_max == backend.connections_max
    }

    /// The same with another weight or bound: it goes on, and connections count in both.
    fn sharing_as(&self, backend: &Backend) -> Self {
        Self {
            name: self.name.clone(),
            address: self.address,
            target: self.target.clone(),
            weight: backend.weight,
            connections_max: backend.connections_max,
            active: Arc::clone(&self.active),
            usable: AtomicBool::new(self.usable.load(Relaxed)),
            weight_now: AtomicU16::new(in_force(backend.weight)),
            health: Arc::clone(&self.health),
            failing: Arc::clone(&self.failing),
            stats: Arc::clone(&self.stats),
        }
    }

    /// Takes a place among its connections; `None` when all are taken.
    #[must_use]
    pub fn try_take(self: &Arc<Self>) -> Option<ActiveGuard> {
        let before = self.active.fetch_add(1, Relaxed);
        let guard = ActiveGuard(Arc::clone(self));
        // Whoever came too late gives its place back by dropping the guard.
        (self.connections_max == 0 || before < self.connections_max).then_some(guard)
    }
}

/// A place among a backend's connections, given back when dropped.
#[derive(Debug)]
pub struct ActiveGuard(Arc<BackendRuntime>);

impl ActiveGuard {
    /// The backend.
    #[must_use]
    pub const fn backend(&self) -> &Arc<BackendRuntime> {
        &self.0
    }
}

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn no_race_takes_more_places_than_there_are() {
        const PLACES: u32 = 5;
        let backend = Backend {
            name: "a".into(),
            target: Target::Address(([127, 0, 0, 1], 80).into()),
            weight: 1,
            connections_max: PLACES,
        };
        let address = ([127, 0, 0, 1], 80).into();
        let health = BackendHealth::new(Tick(0), false, false);
        let backend = Arc::new(BackendRuntime::new(&backend, address, health));
        let taken = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        let Some(guard) = backend.try_take() else {
                            continue;
                        };
                        assert!(taken.fetch_add(1, Relaxed) < PLACES);
                        thread::yield_now();
                        taken.fetch_sub(1, Relaxed);
                        drop(guard);
                    }
                });
            }
        });
        assert_eq!(backend.active.load(Relaxed), 0);
    }
}
