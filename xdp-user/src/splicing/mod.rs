//! Services in `splice` mode, beside their packets: which there are, where their connections may
//! lead, by which way, and what is counted of them.
//!
//! The controller makes the [`Directory`] and finds the [ways](hops); the splice thread reads both,
//! and counts.

pub mod director;
pub mod directory;
pub mod hops;
pub mod start;
pub mod stats;
pub mod ways;

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tokio::{sync::watch, time};
use xdp_common::{splice::flow::TARGETS_MAX, tuple::Addr};

use self::{
    directory::{Directory, Replaced, SplicedService, SplicedTarget, nat_pool, timeouts},
    hops::HopTable,
    stats::{ServiceStats, ThreadStats},
};
use crate::{
    backends,
    config::{Config, Service},
    engine::{Tick, handshake::effects},
    flows::Usage,
    learned::{self, Agreed},
    offer::KernelOffer,
    protection::Protection,
    proxy::{runtime::ServiceRuntime, stats::Counter},
    services::{self, Pools},
    snapshot::SpliceSnapshot,
    splice::Splice,
    task::Task,
};

/// How long a start waits until it is known what the backends agree to. What is learned later is
/// offered from then on.
const LEARNED_WITHIN: Duration = Duration::from_secs(2);

/// How often it looks meanwhile.
const LEARNED_LOOK: Duration = Duration::from_millis(20);

/// What the controller, the splice thread and those who tell of them share.
#[derive(Debug)]
pub struct Spliced {
    /// Services and targets.
    pub directory: Arc<Replaced<Directory>>,
    /// The ways to targets.
    pub hops: Arc<HopTable>,
    /// What the thread counts.
    pub thread: Arc<ThreadStats>,
    /// Why there is no way to some targets, by slot.
    pub obstacles: Replaced<HashMap<u16, String>>,
    /// Connections that the table has room for.
    pub flows_max: u32,
}

impl Spliced {
    /// How many clients have returned their cookie, by the service's address.
    #[must_use]
    pub fn proven(&self) -> HashMap<SocketAddr, u64> {
        let directory = self.directory.load();
        let services = directory.services().iter();
        services
            .map(|service| {
                let outcomes = service.stats.outcomes.iter().map(Counter::get);
                (service.runtime.address, outcomes.sum())
            })
            .collect()
    }
}

/// The splice thread, and what it shares with others.
#[derive(Clone, Debug)]
pub struct Splicer {
    /// The thread.
    pub thread: Arc<Splice>,
    /// What is shared.
    pub spliced: Arc<Spliced>,
}

impl Splicer {
    /// How things are.
    #[must_use]
    pub fn snapshot(&self) -> SpliceSnapshot {
        let services = self.spliced.directory.load().services().to_vec();
        // For whoever tells of backends: the thread itself counts by target.
        for target in services.iter().flat_map(|service| &service.targets) {
            let connections = self.thread.usage().connections_of_target(target.slot);
            target.backend.active.store(connections, Relaxed);
        }
        SpliceSnapshot {
            flows_max: self.thread.capacity(),
            // Those that are there for their connections only have no targets.
            services: services
                .into_iter()
                .filter(|s| !s.targets.is_empty())
                .collect(),
            thread: Arc::clone(&self.spliced.thread),
            obstacles: self.spliced.obstacles.load(),
        }
    }
}

/// The strings of spliced services. Dropping it ends the tasks beside the splice thread.
#[derive(Debug)]
pub struct Splicing {
    shared: Arc<Spliced>,
    started: Instant,
    /// The services that are wanted, and what they count.
    services: Vec<Running>,
    /// Services that are no longer wanted, for the connections that they have.
    retired: Vec<Running>,
    beside: watch::Sender<Vec<Arc<ServiceRuntime>>>,
    _backends: Task,
}

#[derive(Clone, Debug)]
struct Running {
    service: Service,
    runtime: Arc<ServiceRuntime>,
    stats: Arc<ServiceStats>,
    /// What was said last of backends that differ.
    said: Option<Agreed>,
}

/// Services that are ready to take the place of those that run.
#[derive(Debug)]
#[must_use]
pub struct Staged(Vec<Running>);

impl Splicing {
    /// For the services of `config` that are spliced; `None` when there are none: then no room was
    /// made for connections.
    #[must_use]
    pub fn new(config: &Config) -> Option<Self> {
        config.services.iter().find_map(Service::splice)?;
        let started = Instant::now();
        let (beside, watched) = watch::channel(Vec::new());
        let backends = backends::run(watched, config.proxy.dns_server, started);
        let mut splicing = Self {
            shared: Arc::new(Spliced {
                directory: Arc::default(),
                hops: Arc::default(),
                thread: Arc::default(),
                obstacles: Replaced::default(),
                flows_max: config.splice.flows_max,
            }),
            started,
            services: Vec::new(),
            retired: Vec::new(),
            beside,
            _backends: Task::spawn(backends),
        };
        let staged = splicing.stage(&config.services);
        splicing.commit(staged);
        Some(splicing)
    }

    /// What others may look at.
    #[must_use]
    pub const fn shared(&self) -> &Arc<Spliced> {
        &self.shared
    }

    /// When the clock was at 0 that backends' health goes by.
    #[must_use]
    pub const fn started(&self) -> Instant {
        self.started
    }

    /// Prepares to splice those of `services` that are in `splice` mode.
    pub fn stage(&self, services: &[Service]) -> Staged {
        let now = Tick::of(self.started.elapsed());
        let spliced = services.iter().filter(|service| service.splice().is_some());
        let running = spliced.filter_map(|service| {
            let mut all = self.services.iter().chain(&self.retired);
            let known = all.find(|known| known.service.name == service.name);
            let previous = known.map(|known| &*known.runtime);
            Some(Running {
                runtime: Arc::new(ServiceRuntime::new(service, previous, now)?),
                service: service.clone(),
                stats: known.map_or_else(Arc::default, |known| Arc::clone(&known.stats)),
                said: known.and_then(|known| known.said),
            })
        });
        Staged(running.collect())
    }

    /// Takes over what was staged. It is told to the data path and to the splice thread with the
    /// next [announcement](Self::announce).
    pub fn commit(&mut self, staged: Staged) {
        let former = std::mem::replace(&mut self.services, staged.0);
        let wanted: HashSet<_> = self.services.iter().map(Running::address).collect();
        self.retired.extend(former);
        self.retired.retain(|old| !wanted.contains(&old.address()));
        let runtimes = self.services.iter().map(|s| Arc::clone(&s.runtime));
        self.beside.send_replace(runtimes.collect());
    }

    /// The services that the data path has to know: those of the configuration, and those that are
    /// there for their connections only.
    #[must_use]
    pub fn with_retired(&self, configured: &[Service]) -> Vec<Service> {
        let taken: HashSet<_> = configured.iter().map(|service| service.address).collect();
        let retired = self.retired.iter().map(|retired| &retired.service);
        let retired = retired.filter(|service| !taken.contains(&service.address));
        configured.iter().chain(retired).cloned().collect()
    }

    /// Gives up the retired services that have no connections any more.
    pub fn drop_ended(&mut self, usage: &Usage) {
        let directory = self.shared.directory.load();
        self.retired.retain(|retired| {
            let address = retired.address();
            let known = directory.at(address.ip().into(), address.port());
            // One that is not retired in the directory yet may still get connections.
            known.is_some_and(|known| {
                !known.targets.is_empty() || usage.of_service(known.engine.id) > 0
            })
        });
    }

    /// Where connections may lead now, and what may be offered for it. `usage` tells how many there
    /// are; without, as before the splice thread has looked, there may be some everywhere.
    #[must_use]
    pub fn pools(&self, usage: Option<&Usage>) -> Pools {
        let pools = self.services.iter().map(|s| s.runtime.pool.load());
        let targets = pools.flat_map(|pool| {
            let addresses = pool.backends.iter().map(|backend| backend.address);
            addresses.collect::<Vec<_>>()
        });
        let agreed = self.services.iter().filter_map(|service| {
            let agreed = learned::common(service.agreed())?;
            Some((service.address(), agreed))
        });
        Pools {
            targets: targets.collect(),
            agreed: agreed.collect(),
            in_use: usage.map(|usage| {
                let all = 0..TARGETS_MAX as u16;
                all.filter(|slot| usage.of_target(*slot) > 0).collect()
            }),
        }
    }

    /// Tells the splice thread what the data path was just told.
    pub fn announce(&mut self, protection: &Protection, offer: &KernelOffer, pools: &Pools) {
        for service in &mut self.services {
            service.report_differences();
        }
        let slots: HashMap<SocketAddr, u16> = protection.targets().collect();
        let active = self.services.iter().map(|service| (service, false));
        let retired = self.retired.iter().map(|service| (service, true));
        let spliced = active.chain(retired).filter_map(|(running, retired)| {
            let id = protection.id(running.address())?;
            let agreed = pools.agreed.get(&running.address()).copied();
            let mut spliced = running.spliced(id, offer, agreed, &slots)?;
            if retired {
                spliced.targets.clear();
            }
            Some(Arc::new(spliced))
        });
        let targets = slots.iter().map(|(address, slot)| {
            let addr: Addr = address.ip().into();
            ((addr, address.port()), *slot)
        });
        let directory = Directory::new(spliced.collect(), targets);
        self.shared.directory.store(directory);
    }

    /// Waits until it is known what the backends that answer agree to, but not for long.
    pub async fn learned(&self) {
        let end = Instant::now() + LEARNED_WITHIN;
        let is_known = || self.services.iter().all(|s| s.agreed().next().is_some());
        while !is_known() && Instant::now() < end {
            time::sleep(LEARNED_LOOK).await;
        }
        for service in &self.services {
            if service.agreed().next().is_none() {
                log::warn!(
                    "service {}: no backend has answered yet; until one does, clients are offered \
                     small segments (MSS 536, over IPv6 1220) and no TCP options",
                    service.service.name
                );
            }
        }
    }
}

/// Refuses services in `splice` mode where no room was made for connections.
///
/// # Errors
/// Names the first of them.
pub fn refuse(services: &[Service]) -> Result<()> {
    let spliced = services.iter().find(|service| service.splice().is_some());
    let name = spliced.map_or("", |service| &service.name);
    ensure!(
        spliced.is_none(),
        "service {name}: mode = \"splice\" needs a table of connections, which is made at the start \
         if there is such a service: restart levee"
    );
    Ok(())
}

impl Running {
    const fn address(&self) -> SocketAddr {
        self.service.address
    }

    /// What its backends agree to, as far as it is known.
    fn agreed(&self) -> impl Iterator<Item = Agreed> {
        let pool = self.runtime.pool.load();
        let agreed: Vec<_> = pool.backends.iter().filter_map(|b| b.agreed()).collect();
        agreed.into_iter()
    }

    /// Says that two backends differ, once.
    fn report_differences(&mut self) {
        let Some(common) = learned::common(self.agreed()) else {
            return;
        };
        if self.agreed().all(|agreed| agreed == common) || self.said == Some(common) {
            return;
        }
        self.said = Some(common);
        let pool = self.runtime.pool.load();
        let each = pool.backends.iter().filter_map(|backend| {
            let agreed = backend.agreed()?.describe();
            Some(format!("{} ({}): {agreed}", backend.name, backend.address))
        });
        log::warn!(
            "service {}: its backends' TCP differs, so that clients are offered what all of them \
             do, {}: {}",
            self.service.name,
            common.describe(),
            each.collect::<Vec<_>>().join("; ")
        );
    }

    fn spliced(
        &self,
        id: u16,
        offer: &KernelOffer,
        agreed: Option<Agreed>,
        slots: &HashMap<SocketAddr, u16>,
    ) -> Option<SplicedService> {
        let splice = self.service.splice()?;
        let terms = services::spliced_terms(&self.service, offer, agreed);
        let pool = self.runtime.pool.load();
        let targets = pool.backends.iter().filter_map(|backend| {
            Some(SplicedTarget {
                slot: *slots.get(&backend.address)?,
                backend: Arc::clone(backend),
            })
        });
        Some(SplicedService {
            engine: effects::Service {
                id,
                window_scale: terms.window_scale,
                offer: terms.flags,
                attempts_max: splice.common.retries + 1,
                connect_timeout_ms: splice.common.timeouts.connect_ms,
                half_open_max: splice.common.half_open_max,
            },
            addr: self.address().ip().into(),
            port: self.address().port(),
            runtime: Arc::clone(&self.runtime),
            stats: Arc::clone(&self.stats),
            timeouts: timeouts(splice),
            nat_pool: nat_pool(&splice.nat),
            targets: targets.collect(),
        })
    }
}
