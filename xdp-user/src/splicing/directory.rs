//! What the splice thread knows of services and their targets: made by the controller, replaced
//! whole, and never changed.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use xdp_common::tuple::Addr;

use super::stats::ServiceStats;
use crate::{
    config::{Nat, SpliceService},
    engine::{handshake::effects, reaper::Timeouts},
    proxy::runtime::{BackendRuntime, ServiceRuntime},
};

/// A service whose connections are spliced.
#[derive(Clone, Debug)]
pub struct SplicedService {
    /// What the handshake engine is told of it.
    pub engine: effects::Service,
    /// Its address.
    pub addr: Addr,
    /// Its port, host order.
    pub port: u16,
    /// Name, limits and health of its backends.
    pub runtime: Arc<ServiceRuntime>,
    /// What is counted for it.
    pub stats: Arc<ServiceStats>,
    /// How long its connections may be silent.
    pub timeouts: Timeouts,
    /// Where packets to its targets come from; empty for the client's own address.
    pub nat_pool: Vec<Addr>,
    /// Its targets, by position: at most 64.
    pub targets: Vec<SplicedTarget>,
}

impl SplicedService {
    /// Whether the TCP of its backends differs, as far as it is known.
    #[must_use]
    pub fn backends_differ(&self) -> bool {
        let mut agreed = self.targets.iter().filter_map(|t| t.backend.agreed());
        let first = agreed.next();
        agreed.any(|agreed| Some(agreed) != first)
    }
}

/// A target of a service.
#[derive(Clone, Debug)]
pub struct SplicedTarget {
    /// The backend.
    pub backend: Arc<BackendRuntime>,
    /// Its slot in `TARGETS`.
    pub slot: u16,
}

/// The services and targets that there are.
#[derive(Debug, Default)]
pub struct Directory {
    services: Vec<Arc<SplicedService>>,
    by_address: HashMap<(Addr, u16), usize>,
    by_id: HashMap<u16, usize>,
    targets: HashMap<(Addr, u16), u16>,
    by_slot: HashMap<u16, (Addr, u16)>,
}

impl Directory {
    /// Of these services, and of the targets of all of them and of connections that are left.
    #[must_use]
    pub fn new(
        services: Vec<Arc<SplicedService>>,
        targets: impl IntoIterator<Item = ((Addr, u16), u16)>,
    ) -> Self {
        let targets: HashMap<_, _> = targets.into_iter().collect();
        let indexed = || services.iter().enumerate();
        Self {
            by_address: indexed().map(|(i, s)| ((s.addr, s.port), i)).collect(),
            by_id: indexed().map(|(i, s)| (s.engine.id, i)).collect(),
            by_slot: targets.iter().map(|(key, slot)| (*slot, *key)).collect(),
            targets,
            services,
        }
    }

    /// The services, in no particular order.
    #[must_use]
    pub fn services(&self) -> &[Arc<SplicedService>] {
        &self.services
    }

    /// The service at an address and port.
    #[must_use]
    pub fn at(&self, addr: Addr, port: u16) -> Option<&Arc<SplicedService>> {
        Some(&self.services[*self.by_address.get(&(addr, port))?])
    }

    /// The service with an id.
    #[must_use]
    pub fn service(&self, id: u16) -> Option<&Arc<SplicedService>> {
        Some(&self.services[*self.by_id.get(&id)?])
    }

    /// The slot of the target at an address and port.
    #[must_use]
    pub fn target(&self, addr: Addr, port: u16) -> Option<u16> {
        self.targets.get(&(addr, port)).copied()
    }

    /// Address and port of the target in a slot.
    #[must_use]
    pub fn target_address(&self, slot: u16) -> Option<(Addr, u16)> {
        self.by_slot.get(&slot).copied()
    }
}

/// How long a service's connections may be silent.
#[must_use]
pub fn timeouts(splice: &SpliceService) -> Timeouts {
    // 0 is for ever.
    let seconds = |ms: u32| match ms {
        0 => u32::MAX,
        ms => ms.div_ceil(1000),
    };
    let common = &splice.common.timeouts;
    Timeouts {
        idle_s: seconds(common.idle_ms),
        close_wait_s: seconds(common.close_wait_ms),
        fin_wait_s: seconds(common.fin_wait_ms),
        last_ack_s: seconds(splice.last_ack_ms),
        time_wait_s: seconds(splice.time_wait_ms),
    }
}

/// The addresses that packets to a service's targets come from; none for the client's own.
#[must_use]
pub fn nat_pool(nat: &Nat) -> Vec<Addr> {
    match nat {
        Nat::Dnat => Vec::new(),
        Nat::Full(pool) => pool.iter().copied().map(Addr::from).collect(),
    }
}

/// Something that is replaced whole now and then, and looked at often.
#[derive(Debug, Default)]
pub struct Replaced<T> {
    current: Mutex<Arc<T>>,
    version: AtomicU32,
}

impl<T> Replaced<T> {
    /// The first one.
    #[must_use]
    pub fn new(first: T) -> Self {
        Self {
            current: Mutex::new(Arc::new(first)),
            version: AtomicU32::new(0),
        }
    }

    /// Puts another one in force.
    pub fn store(&self, next: T) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        self.version.fetch_add(1, Relaxed);
    }

    /// The one in force.
    #[must_use]
    pub fn load(&self) -> Arc<T> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Loads into `held` if there is another than that of `version`. True if there was.
    pub fn refresh(&self, held: &mut Arc<T>, version: &mut u32) -> bool {
        // The version first: one that comes in between is seen at the next look.
        let now = self.version.load(Relaxed);
        let changed = now != *version;
        if changed {
            *held = self.load();
            *version = now;
        }
        changed
    }
}
