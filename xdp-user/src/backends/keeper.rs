//! Who looks after the backends of one service: a task per name, a task per checked address.

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use anyhow::Error;
use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinError, JoinSet},
    time::{sleep, timeout},
};

use super::{
    Shared,
    check::{CheckError, Checker},
    resolve::{Composed, Known, compose},
};
use crate::{
    config::Target,
    engine::health::Health,
    proxy::runtime::{BackendRuntime, Pool, ServiceRuntime},
};

/// Looks after the backends of one service.
#[derive(Clone)]
pub(super) struct Keeper {
    service: Arc<ServiceRuntime>,
    shared: Arc<Shared>,
    names: Arc<Names>,
}

/// What is known of a service's names.
struct Names {
    /// By position in the configured backends; empty for those by address.
    known: Mutex<Vec<Known>>,
    /// The pool is another one.
    changed: Notify,
}

/// A backend of the pool, with the task that checks it.
type Checked = (Arc<BackendRuntime>, AbortHandle);

impl Keeper {
    /// Goes on with the addresses that the service's pool has.
    pub(super) fn new(service: Arc<ServiceRuntime>, shared: Arc<Shared>) -> Self {
        let pool = service.pool.load();
        let known = service.config.backends.iter().map(|backend| {
            let of_it = |known: &&Arc<BackendRuntime>| {
                known.name == backend.name && known.target == backend.target
            };
            let addresses = pool.backends.iter().filter(of_it);
            Known::from_addresses(addresses.map(|known| known.address.ip()))
        });
        let names = Arc::new(Names {
            known: Mutex::new(known.collect()),
            changed: Notify::new(),
        });
        Self {
            service,
            shared,
            names,
        }
    }

    pub(super) fn service_name(&self) -> &str {
        &self.service.name
    }

    /// Looks after the backends until a task of it panics.
    pub(super) async fn run(self) -> Error {
        self.publish();
        let mut lookups = JoinSet::new();
        for (position, host) in self.hosts() {
            lookups.spawn(self.clone().keep_resolved(position, host));
        }
        let Some(checker) = self.checker().await else {
            return ended(lookups.join_next().await).await;
        };
        let checker = Arc::new(checker);
        let mut checks = JoinSet::new();
        let mut checked: Vec<Checked> = Vec::new();
        loop {
            let pool = self.service.pool.load();
            let is_in = |backend: &Arc<BackendRuntime>| {
                pool.backends
                    .iter()
                    .any(|other| Arc::ptr_eq(other, backend))
            };
            checked.retain(|(backend, task)| {
                let stays = is_in(backend);
                if !stays {
                    task.abort();
                }
                stays
            });
            for backend in &pool.backends {
                if !checked.iter().any(|(known, _)| Arc::ptr_eq(known, backend)) {
                    let keeper = self.clone();
                    let check = keeper.keep_checked(Arc::clone(backend), Arc::clone(&checker));
                    checked.push((Arc::clone(backend), checks.spawn(check)));
                }
            }
            tokio::select! {
                () = self.names.changed.notified() => {}
                Some(Err(error)) = lookups.join_next() => return panicked(error),
                Some(Err(error)) = checks.join_next() => if !error.is_cancelled() {
                    return panicked(error);
                },
            }
        }
    }

    /// Positions and hosts of the backends by name.
    fn hosts(&self) -> Vec<(usize, String)> {
        let backends = self.service.config.backends.iter().enumerate();
        backends
            .filter_map(|(position, backend)| match &backend.target {
                Target::Name { host, .. } => Some((position, host.clone())),
                Target::Address(_) => None,
            })
            .collect()
    }

    async fn keep_resolved(self, position: usize, host: String) -> Infallible {
        loop {
            let again_in = self.resolve(position, &host).await;
            sleep(again_in).await;
        }
    }

    /// Looks up one name and puts what was found in force; when to look again.
    async fn resolve(&self, position: usize, host: &str) -> Duration {
        let answer = self.shared.resolver.look_up(host).await;
        let mut known = self.lock_known();
        let before: Vec<IpAddr> = known[position].addresses().collect();
        let outcome = known[position].update(answer);
        let after: Vec<IpAddr> = known[position].addresses().collect();
        drop(known);
        let service = &self.service.name;
        let found = outcome.error.is_none();
        let was_found = self.service.resolved[position].swap(found, Relaxed);
        match outcome.error {
            Some(error) => {
                let level = if was_found || outcome.begins {
                    log::Level::Warn
                } else {
                    // It was said when it began.
                    log::Level::Debug
                };
                log::log!(
                    level,
                    "service {service}: cannot look up {host}: {error}; {} address(es) stay in use",
                    before.len()
                );
            }
            None if after != before => {
                log::info!("service {service}: {host} is {}", list(&after));
                self.publish();
            }
            None => {}
        }
        outcome.again_in
    }

    /// Puts the addresses that are known in force.
    fn publish(&self) {
        let known = self.lock_known();
        let config = &self.service.config;
        let composed = compose(config, self.service.address, &self.shared.served, &known);
        self.report(&composed);
        let addresses = composed
            .chosen
            .into_iter()
            .map(|(position, address)| (&config.backends[position], address));
        let now = self.shared.now();
        let previous = self.service.pool.load();
        let pool = Pool::new(addresses, Some(&previous), now, config.check.is_some());
        self.service.put_in_force(pool, now);
        drop(known);
        self.names.changed.notify_one();
    }

    /// Says which addresses are not used.
    fn report(&self, composed: &Composed) {
        let service = &self.service.name;
        if composed.left_out > 0 {
            log::warn!(
                "service {service}: {} of its backends' addresses are not used, allowed: {} in all",
                composed.left_out,
                composed.chosen.len()
            );
        }
        for (position, address) in &composed.loops {
            let backend = &self.service.config.backends[*position].name;
            log::warn!(
                "service {service}: backend {backend} leads to {address}, where levee itself \
                 serves: that address is not used"
            );
        }
    }

    fn lock_known(&self) -> std::sync::MutexGuard<'_, Vec<Known>> {
        self.names
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What to check with; `None` when nothing is. A file that cannot be read now is tried again.
    async fn checker(&self) -> Option<Checker> {
        let mut said = String::new();
        loop {
            let error = match Checker::new(&self.service.config) {
                Ok(checker) => return checker,
                Err(error) => format!("{error:#}"),
            };
            if error != said {
                log::error!("service {}: {error}", self.service.name);
                said = error;
            }
            sleep(self.service.config.health.interval).await;
        }
    }

    async fn keep_checked(self, backend: Arc<BackendRuntime>, checker: Arc<Checker>) -> Infallible {
        let policy = &self.service.config.health;
        loop {
            let due_in_ms = backend.next_check().since(self.shared.now());
            sleep(Duration::from_millis(due_in_ms)).await;
            // The time is set before, so that a reload in the middle of a check does not repeat it
            // at once.
            let random = getrandom::u32().unwrap_or(u32::MAX / 2);
            backend.set_next_check(Health::next_check(self.shared.now(), random, policy));
            let permit = timeout(policy.interval, self.shared.checks.acquire()).await;
            let result = match permit {
                Ok(_permit) => checker.check(backend.address, &backend.target).await,
                Err(_) => Err(CheckError::NotDone("too many checks at a time".into())),
            };
            if self.service.config.check.is_some() {
                self.service
                    .report_check(&backend, self.shared.now(), result);
            } else {
                // Not asked for, it judges nobody.
                backend.learn(&result);
            }
        }
    }
}

/// Waits for ever when there was no task.
async fn ended(task: Option<Result<Infallible, JoinError>>) -> Error {
    match task {
        Some(Ok(never)) => match never {},
        Some(Err(error)) => panicked(error),
        None => std::future::pending().await,
    }
}

fn panicked(error: JoinError) -> Error {
    Error::new(error).context("looking after the backends failed")
}

fn list(addresses: &[IpAddr]) -> String {
    let words: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    words.join(", ")
}
