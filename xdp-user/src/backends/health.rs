//! The health of a service's backends: what checks and connects tell goes in, and whether each
//! backend is used, with which weight, comes out for the workers to read.

use std::{
    ptr,
    sync::{Arc, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use super::check::{CheckError, Checked};
use crate::{
    engine::{
        Tick,
        health::{Health, HealthState, Peers, Transition},
        reason::ConnectError,
    },
    learned::Agreed,
    proxy::runtime::{BackendRuntime, Pool, ServiceRuntime},
};

/// What is known of the health of one backend address.
#[derive(Debug)]
pub struct BackendHealth {
    health: Health,
    checked: bool,
    last_check: Option<LastCheck>,
    agreed: Option<Agreed>,
    next_check: Tick,
}

/// The last active check that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastCheck {
    /// When it ended.
    pub at: Tick,
    /// How long it took, or why the backend was not fit.
    pub result: Result<Duration, CheckError>,
}

impl BackendHealth {
    /// Of a backend that nothing is known of. `joins` tells whether it is added to others.
    #[must_use]
    pub const fn new(now: Tick, checked: bool, joins: bool) -> Self {
        Self {
            health: if joins {
                Health::joining(now, checked)
            } else {
                Health::new(now, checked)
            },
            checked,
            last_check: None,
            agreed: None,
            next_check: now,
        }
    }
}

impl BackendRuntime {
    fn health(&self) -> MutexGuard<'_, BackendHealth> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> HealthState {
        self.health().health.state()
    }

    /// The last active check; `None` before the first.
    #[must_use]
    pub fn last_check(&self) -> Option<LastCheck> {
        self.health().last_check.clone()
    }

    /// What its TCP agrees to; `None` before a check has found out.
    #[must_use]
    pub fn agreed(&self) -> Option<Agreed> {
        self.health().agreed
    }

    /// Takes note of what a connection has told of its TCP.
    pub(super) fn learn(&self, result: &Result<Checked, CheckError>) {
        if let Ok(Checked {
            agreed: Some(agreed),
            ..
        }) = result
        {
            self.health().agreed = Some(*agreed);
        }
    }

    /// When it is to be checked next.
    pub(super) fn next_check(&self) -> Tick {
        self.health().next_check
    }

    pub(super) fn set_next_check(&self, at: Tick) {
        self.health().next_check = at;
    }
}

impl ServiceRuntime {
    /// Takes note of how an attempt to connect to `backend` ended: `Ok` when the connection was
    /// made. Counts it, and ejects the backend where that is due.
    pub fn report_connect(
        &self,
        backend: &BackendRuntime,
        now: Tick,
        result: Result<(), ConnectError>,
    ) {
        match result {
            Ok(()) => {
                backend.stats.connections.count();
                if !(backend.failing.load(Relaxed) && backend.failing.swap(false, Relaxed)) {
                    return;
                }
            }
            Err(error) => {
                backend.stats.failures[error.index()].count();
                if !error.blames_backend() {
                    return;
                }
                backend.failing.store(true, Relaxed);
            }
        }
        let transition = self.pool.with(|pool| {
            let peers = peers(pool, backend);
            let policy = &self.config.health;
            let transition = backend
                .health()
                .health
                .connected(now, result.is_ok(), peers, policy);
            if transition.is_some() {
                self.refresh(pool, now);
            }
            transition
        });
        if let Some(transition) = transition {
            backend.stats.ejections.count();
            let reason = result.err().map(ConnectError::label).unwrap_or_default();
            self.log(backend, transition, &format!("connects fail ({reason})"));
        }
    }

    /// Takes note of an active check of `backend`. One that could not be done changes nothing.
    pub(super) fn report_check(
        &self,
        backend: &BackendRuntime,
        now: Tick,
        result: Result<Checked, CheckError>,
    ) {
        match &result {
            Ok(Checked { took, .. }) => {
                backend.stats.checks_ok.count();
                backend.stats.check_duration.observe(*took);
            }
            Err(error) if error.blames_backend() => backend.stats.checks_failed.count(),
            Err(error) => {
                backend.stats.checks_not_done.count();
                log::debug!(
                    "service {}: backend {} ({}): {error}",
                    self.name,
                    backend.name,
                    backend.address
                );
                return;
            }
        }
        let ok = result.is_ok();
        let said = match &result {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        let transition = self.pool.with(|pool| {
            let mut health = backend.health();
            if let Ok(Checked {
                agreed: Some(agreed),
                ..
            }) = result
            {
                health.agreed = Some(agreed);
            }
            let result = result.map(|checked| checked.took);
            health.last_check = Some(LastCheck { at: now, result });
            let transition = health.health.check(now, ok, &self.config.health);
            drop(health);
            if transition.is_some() {
                self.refresh(pool, now);
            }
            transition
        });
        if let Some(transition) = transition {
            self.log(backend, transition, &said);
        }
    }

    /// Lets time pass: ends ejections, and raises weights in a slow start.
    pub(super) fn tick(&self, now: Tick) {
        let mut returned = Vec::new();
        self.pool.with(|pool| {
            for backend in &pool.backends {
                let transition = backend.health().health.tick(now, &self.config.health);
                returned.extend(transition.map(|transition| (backend.clone(), transition)));
            }
            self.refresh(pool, now);
        });
        for (backend, transition) in returned {
            self.log(&backend, transition, "");
        }
    }

    /// Puts a pool in force, with health as the service checks now: what only a check could bring
    /// up again is up when there are no more checks.
    pub(super) fn put_in_force(&self, pool: Pool, now: Tick) {
        let checked = self.config.check.is_some();
        for backend in &pool.backends {
            let mut health = backend.health();
            if health.checked != checked {
                *health = BackendHealth::new(now, checked, false);
            }
        }
        self.refresh(&pool, now);
        self.pool.store(pool);
    }

    /// Tells the workers what follows from the health of all.
    fn refresh(&self, pool: &Pool, now: Tick) {
        let is_up = |backend: &BackendRuntime| matches!(backend.state(), HealthState::Up { .. });
        let any_up = pool.backends.iter().any(|backend| is_up(backend));
        for backend in &pool.backends {
            let health = backend.health();
            let weight = health
                .health
                .weight_now(now, backend.weight, &self.config.health);
            backend.weight_now.store(weight, Relaxed);
            backend.usable.store(health.health.usable(any_up), Relaxed);
        }
    }

    fn log(&self, backend: &BackendRuntime, transition: Transition, said: &str) {
        let (service, name, address) = (&self.name, &backend.name, backend.address);
        let what = format!("service {service}: backend {name} ({address})");
        match transition {
            Transition::Up => log::info!("{what} is up"),
            Transition::Returned => log::info!("{what} is used again after its ejection"),
            Transition::Down => log::warn!("{what} is down: {said}"),
            Transition::Ejected { for_ms } => {
                log::warn!("{what} is not used for {} s: {said}", for_ms / 1000);
            }
        }
    }
}

/// The others in the pool of `backend`.
fn peers(pool: &Pool, backend: &BackendRuntime) -> Peers {
    let others = pool
        .backends
        .iter()
        .filter(|other| !ptr::eq(Arc::as_ptr(other), backend));
    let (mut usable, mut ejected) = (0, 0);
    for other in others {
        usable += usize::from(other.usable.load(Relaxed));
        ejected += usize::from(matches!(other.state(), HealthState::Ejected { .. }));
    }
    Peers {
        total: pool.backends.len(),
        usable,
        ejected,
    }
}

#[cfg(test)]
mod tests;
