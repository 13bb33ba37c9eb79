//! What handshakes are told of services and targets: who gets a connection, from which address and
//! port, and which way it goes. Belongs to the splice thread.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use xdp_common::{siphash::SipHash, splice::flow::Hop, tuple::Addr};

use super::{
    directory::{Directory, Replaced, SplicedService},
    hops::HopTable,
};
use crate::engine::{
    Tick,
    balancer::{BackendKey, BackendSet, Balancer, Candidate},
    handshake::{
        effects::{self, Choice},
        outcome::{Notice, Outcome},
    },
    reason::ConnectError,
};

/// Ports that a pool's addresses are used with: not those that servers listen at.
const PORTS: std::ops::Range<u32> = 1024..65_536;

/// Chooses for the handshake engine.
pub struct Director {
    source: Arc<Replaced<Directory>>,
    version: u32,
    directory: Arc<Directory>,
    hops: Arc<HopTable>,
    /// By service id.
    balancing: HashMap<u16, Balancing>,
    client_hash_key: [u64; 2],
    port_hash_key: [u64; 2],
    port_cursor: u64,
}

/// Whose turn it is among the targets of a service.
struct Balancing {
    service: Arc<SplicedService>,
    pool_keys: Vec<BackendKey>,
    balancer: Balancer,
    candidates: Vec<Candidate>,
}

impl fmt::Debug for Director {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys are nobody's business.
        f.debug_struct("Director")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl Director {
    /// With what `source` and `hops` hold, now and later. Machines that share `client_hash_key` send
    /// a client to the same target; `port_hash_key` is a secret of this machine.
    #[must_use]
    pub fn new(
        source: Arc<Replaced<Directory>>,
        hops: Arc<HopTable>,
        client_hash_key: [u64; 2],
        port_hash_key: [u64; 2],
    ) -> Self {
        let mut director = Self {
            directory: source.load(),
            source,
            version: 0,
            hops,
            balancing: HashMap::new(),
            client_hash_key,
            port_hash_key,
            port_cursor: 0,
        };
        director.take_over();
        director
    }

    /// Goes by the directory that is in force; true if it is another than before. To be called now
    /// and then, as for every batch of frames: it costs next to nothing while nothing has changed.
    pub fn refresh(&mut self) -> bool {
        let source = Arc::clone(&self.source);
        let changed = source.refresh(&mut self.directory, &mut self.version);
        if changed {
            self.take_over();
        }
        changed
    }

    /// Whose turn it is goes on where the targets are the same.
    fn take_over(&mut self) {
        let mut former = std::mem::take(&mut self.balancing);
        for service in self.directory.services() {
            let id = service.engine.id;
            let keys: Vec<_> = keys(service).collect();
            let same = |former: &Balancing| {
                former.pool_keys == keys
                    && former.service.runtime.config.balance == service.runtime.config.balance
                    && weights(&former.service).eq(weights(service))
            };
            let balancing = match former.remove(&id) {
                Some(former) if same(&former) => Balancing {
                    service: Arc::clone(service),
                    ..former
                },
                _ => Balancing::new(Arc::clone(service), keys, self.client_hash_key),
            };
            self.balancing.insert(id, balancing);
        }
    }

    /// The services and targets that there are.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// See [`World::service`](effects::World::service).
    #[must_use]
    pub fn service(&self, addr: Addr, port: u16) -> Option<effects::Service> {
        Some(self.directory.at(addr, port)?.engine)
    }

    /// See [`World::target`](effects::World::target).
    #[must_use]
    pub fn target(&self, addr: Addr, port: u16) -> Option<u16> {
        self.directory.target(addr, port)
    }

    /// See [`World::choose`](effects::World::choose). `of_service` and `of_target` count connections
    /// by id and by slot.
    pub fn choose(
        &mut self,
        service: u16,
        client: Addr,
        tried: BackendSet,
        of_service: impl Fn(u16) -> u32,
        of_target: impl Fn(u16) -> u32,
    ) -> Option<Choice> {
        let balancing = self.balancing.get_mut(&service)?;
        let runtime = &balancing.service.runtime;
        let max = runtime.config.limits.service;
        if max > 0 && of_service(service) >= max {
            balancing.service.stats.full.count();
            return None;
        }
        balancing.look(of_target);
        let position = balancing
            .balancer
            .pick(&balancing.candidates, client.to_ip(), tried)?;
        let target = &balancing.service.targets[position];
        Some(Choice {
            target: target.slot,
            position: position as u8,
            addr: target.backend.address.ip().into(),
            port: target.backend.address.port(),
        })
    }

    /// See [`World::source`](effects::World::source).
    ///
    /// Of a pool, where to look first follows from the client and a secret, and goes on by one with
    /// each connection (RFC 6056 3.3.3): nobody outside can tell the next port.
    pub fn source(
        &mut self,
        service: u16,
        choice: &Choice,
        client: (Addr, u16),
        probe: u8,
    ) -> Option<(Addr, u16)> {
        let pool = &self.directory.service(service)?.nat_pool;
        if pool.is_empty() {
            return (probe == 0).then_some(client);
        }
        let (addr, port) = client;
        let ports = u64::from(PORTS.end - PORTS.start);
        let hash = SipHash::new(self.port_hash_key)
            .word(addr.hi)
            .word(addr.lo)
            .finish(u64::from(port) << 16 | u64::from(choice.target), 2);
        let place = hash.wrapping_add(self.port_cursor) % (ports * pool.len() as u64);
        self.port_cursor = self.port_cursor.wrapping_add(1);
        let addr = pool[(place / ports) as usize];
        Some((addr, (u64::from(PORTS.start) + place % ports) as u16))
    }

    /// See [`World::hop`](effects::World::hop).
    #[must_use]
    pub fn hop(&self, target: u16) -> Option<Hop> {
        self.hops.get(target)
    }

    /// See [`World::attempted`](effects::World::attempted). `now` is by the clock of backends'
    /// health.
    pub fn attempted(
        &self,
        service: u16,
        choice: &Choice,
        result: Result<(), ConnectError>,
        now: Tick,
    ) {
        let Some(service) = self.directory.service(service) else {
            return;
        };
        // The pool may have changed since: then it was another's.
        if let Some(target) = service.targets.get(usize::from(choice.position))
            && target.slot == choice.target
        {
            service.runtime.report_connect(&target.backend, now, result);
        }
    }

    /// See [`World::ended`](effects::World::ended).
    pub fn ended(&self, service: u16, outcome: Outcome, waited_ms: u64) {
        if let Some(service) = self.directory.service(service) {
            let stats = &service.stats;
            stats.outcomes[outcome.index()].count();
            if outcome == Outcome::Established {
                stats.handshake.observe(Duration::from_millis(waited_ms));
            }
        }
    }

    /// See [`World::notice`](effects::World::notice).
    pub fn notice(&self, service: u16, notice: Notice) {
        if let Some(service) = self.directory.service(service) {
            service.stats.notices[notice.index()].count();
        }
    }
}

fn keys(service: &SplicedService) -> impl Iterator<Item = BackendKey> {
    let backends = service.targets.iter().map(|target| &target.backend);
    backends.map(|backend| BackendKey::new(&backend.name, backend.address))
}

fn weights(service: &SplicedService) -> impl Iterator<Item = u16> {
    service.targets.iter().map(|target| target.backend.weight)
}

impl Balancing {
    fn new(service: Arc<SplicedService>, pool_keys: Vec<BackendKey>, hash_key: [u64; 2]) -> Self {
        let balance = service.runtime.config.balance;
        let weights: Vec<_> = weights(&service).collect();
        Self {
            balancer: Balancer::new(balance, &pool_keys, &weights, hash_key),
            candidates: Vec::with_capacity(pool_keys.len()),
            service,
            pool_keys,
        }
    }

    /// How the targets stand now.
    fn look(&mut self, of_target: impl Fn(u16) -> u32) {
        self.candidates.clear();
        let targets = self.service.targets.iter();
        self.candidates.extend(targets.map(|target| Candidate {
            weight: target.backend.weight_now.load(Relaxed),
            active: of_target(target.slot),
            max: target.backend.connections_max,
            usable: target.backend.usable.load(Relaxed),
        }));
    }
}

#[cfg(test)]
mod tests;
