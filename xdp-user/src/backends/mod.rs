//! The backends of services in `proxy` mode: whether they are well, and where their names lead.
//!
//! All of it runs beside the controller. Workers only read the results, which are atomics and a
//! pool that is replaced whole.

use std::{
    collections::HashSet,
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{engine::Tick, proxy::runtime::ServiceRuntime};

pub mod check;
#[cfg(test)]
mod dns_server;
#[cfg(test)]
pub(crate) mod fixture;
pub mod health;
mod http;
mod keeper;
mod resolve;
mod tls;

use keeper::Keeper;
use resolve::Resolver;

/// Checks at a time, of all services together: each has a socket. Further ones wait for a place
/// as long as the interval between two checks.
const CHECKS_MAX: usize = 64;

/// How often ejections and slow starts are looked at.
const TICK: Duration = Duration::from_millis(250);

/// Before what went wrong unexpectedly is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// What the keepers of all services share.
struct Shared {
    /// Where levee serves.
    served: HashSet<SocketAddr>,
    resolver: Resolver,
    checks: Semaphore,
    start: Instant,
}

impl Shared {
    fn new(
        services: &[Arc<ServiceRuntime>],
        dns_server: Option<SocketAddr>,
        start: Instant,
    ) -> Self {
        Self {
            served: services.iter().map(|service| service.address).collect(),
            resolver: Resolver::new(dns_server),
            checks: Semaphore::new(CHECKS_MAX),
            start,
        }
    }

    fn now(&self) -> Tick {
        Tick::of(self.start.elapsed())
    }
}

/// Checks the backends of `services` and looks up their names, for ever. `start` is when the
/// proxy's clock was at 0. When `services` change, `dns_server` or the system's configuration of
/// DNS is read again.
///
/// # Errors
/// Fails when there will be no more `services`.
pub async fn run(
    mut services: watch::Receiver<Vec<Arc<ServiceRuntime>>>,
    dns_server: Option<SocketAddr>,
    start: Instant,
) -> Result<Infallible> {
    loop {
        let current = services.borrow_and_update().clone();
        let shared = Arc::new(Shared::new(&current, dns_server, start));
        tokio::select! {
            never = keep(current, &shared) => match never {},
            changed = services.changed() => changed.context("the services are gone")?,
        }
    }
}

async fn keep(services: Vec<Arc<ServiceRuntime>>, shared: &Arc<Shared>) -> Infallible {
    let mut keepers = JoinSet::new();
    for service in &services {
        let keeper = Keeper::new(Arc::clone(service), Arc::clone(shared));
        keepers.spawn(again_and_again(keeper));
    }
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for service in &services {
            service.tick(shared.now());
        }
    }
}

/// One service's trouble, which can only be a mistake of ours, must not be that of the others.
async fn again_and_again(keeper: Keeper) -> Infallible {
    loop {
        let error = keeper.clone().run().await;
        log::error!("service {}: {error:#}", keeper.service_name());
        sleep(RESTART_PAUSE).await;
    }
}

#[cfg(test)]
mod tests;
