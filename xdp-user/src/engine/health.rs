//! When a backend is used: what active checks say, what connections to it say, and how it comes
//! back.

use super::{Tick, balancer::in_force};
use crate::config::HealthPolicy;

/// An ejection lasts at most so many times the configured duration.
const EJECTION_FACTOR_MAX: u8 = 10;

/// Health of one backend address.
#[derive(Clone, Debug)]
pub struct Health {
    checks: Checks,
    /// Checks in a row that contradict [`checks`](Self::checks).
    contrary: u8,
    /// Failed connects in a row.
    failures: u16,
    ejection: Option<Ejection>,
    /// Ejections without a long enough time in between.
    times: u8,
    /// Since when it may be used; slow start counts from here. `None` when its share is full at
    /// once.
    joined: Option<Tick>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checks {
    Unknown,
    Up { since: Tick },
    Down { since: Tick },
}

#[derive(Clone, Copy, Debug)]
struct Ejection {
    since: Tick,
    until: Tick,
}

/// Health as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthState {
    /// No check is done yet.
    Unknown,
    /// It is used.
    Up {
        /// Since then.
        since: Tick,
    },
    /// Checks fail.
    Down {
        /// Since then.
        since: Tick,
    },
    /// Connecting failed too often.
    Ejected {
        /// Since then.
        since: Tick,
        /// Until then.
        until: Tick,
    },
}

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// Checks succeed.
    Up,
    /// Checks fail.
    Down,
    /// Connecting failed too often.
    Ejected {
        /// For as long, milliseconds.
        for_ms: u64,
    },
    /// The time of its ejection is over.
    Returned,
}

/// The pool that a backend is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peers {
    /// Backends in the pool, this one included.
    pub total: usize,
    /// Others that are usable.
    pub usable: usize,
    /// Others that are ejected.
    pub ejected: usize,
}

impl HealthState {
    /// Labels of all states.
    pub const LABELS: [&str; 4] = ["unknown", "up", "down", "ejected"];

    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        let index = match self {
            Self::Unknown => 0,
            Self::Up { .. } => 1,
            Self::Down { .. } => 2,
            Self::Ejected { .. } => 3,
        };
        Self::LABELS[index]
    }
}

impl Health {
    /// Of a backend that is there when levee starts. Without active checks it is up until
    /// connecting to it fails.
    #[must_use]
    pub const fn new(now: Tick, checked: bool) -> Self {
        Self {
            checks: if checked {
                Checks::Unknown
            } else {
                Checks::Up { since: now }
            },
            contrary: 0,
            failures: 0,
            ejection: None,
            times: 0,
            joined: None,
        }
    }

    /// Of a backend that is added to others: it starts slowly.
    #[must_use]
    pub const fn joining(now: Tick, checked: bool) -> Self {
        let mut health = Self::new(now, checked);
        health.joined = Some(now);
        health
    }

    /// Takes the result of an active check. The first one decides alone; from then on it takes
    /// `rise` or `fall` in a row to change anything.
    pub fn check(&mut self, now: Tick, ok: bool, policy: &HealthPolicy) -> Option<Transition> {
        let enough = match self.checks {
            Checks::Unknown => 1,
            Checks::Up { .. } if ok => return self.confirmed(),
            Checks::Down { .. } if !ok => return self.confirmed(),
            Checks::Up { .. } => policy.fall,
            Checks::Down { .. } => policy.rise,
        };
        self.contrary = self.contrary.saturating_add(1);
        if self.contrary < enough {
            return None;
        }
        self.contrary = 0;
        let was_known = self.checks != Checks::Unknown;
        if !ok {
            self.checks = Checks::Down { since: now };
            return Some(Transition::Down);
        }
        self.checks = Checks::Up { since: now };
        self.failures = 0;
        if was_known || self.joined.is_some() {
            self.joined = Some(now);
        }
        Some(Transition::Up)
    }

    const fn confirmed(&mut self) -> Option<Transition> {
        self.contrary = 0;
        None
    }

    /// Takes the result of connecting to it for a client. `eject_failures` failures in a row eject
    /// it, longer each time it happens again soon; but never the last usable backend, and never so
    /// many that fewer than half of the pool are left.
    pub fn connected(
        &mut self,
        now: Tick,
        ok: bool,
        peers: Peers,
        policy: &HealthPolicy,
    ) -> Option<Transition> {
        if ok {
            self.failures = 0;
            return None;
        }
        if self.ejection.is_some() || matches!(self.checks, Checks::Down { .. }) {
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        let may = peers.usable > 0 && (peers.ejected + 1) * 2 <= peers.total;
        if policy.eject_failures == 0 || self.failures < policy.eject_failures || !may {
            return None;
        }
        self.failures = 0;
        self.times = self.times.saturating_add(1).min(EJECTION_FACTOR_MAX);
        let for_ms = self.ejection_ms(policy);
        self.ejection = Some(Ejection {
            since: now,
            until: now.after(for_ms),
        });
        Some(Transition::Ejected { for_ms })
    }

    /// Lets time pass: ends an ejection, and forgets former ones after as long a time without.
    pub fn tick(&mut self, now: Tick, policy: &HealthPolicy) -> Option<Transition> {
        match self.ejection {
            Some(ejection) if ejection.until <= now => {
                self.ejection = None;
                self.joined = Some(now);
                Some(Transition::Returned)
            }
            Some(_) => None,
            None => {
                let back = self.joined.map_or(0, |joined| now.since(joined));
                if self.times > 0 && back >= self.ejection_ms(policy) {
                    self.times = 0;
                }
                None
            }
        }
    }

    /// Whether it may get connections. What no check was made of yet may while no other is
    /// `any_up`, so that a start refuses nobody.
    #[must_use]
    pub const fn usable(&self, any_up: bool) -> bool {
        match self.state() {
            HealthState::Up { .. } => true,
            HealthState::Unknown => !any_up,
            HealthState::Down { .. } | HealthState::Ejected { .. } => false,
        }
    }

    /// Where it stands. What is down and ejected is down.
    #[must_use]
    pub const fn state(&self) -> HealthState {
        match (self.checks, self.ejection) {
            (Checks::Down { since }, _) => HealthState::Down { since },
            (_, Some(Ejection { since, until })) => HealthState::Ejected { since, until },
            (Checks::Up { since }, None) => HealthState::Up { since },
            (Checks::Unknown, None) => HealthState::Unknown,
        }
    }

    /// The weight in force of a backend with this configured weight: less for `slow_start` after
    /// it came back, but 0 only when that is configured. In parts of
    /// [`WEIGHT_UNIT`](super::balancer::WEIGHT_UNIT).
    #[must_use]
    pub fn weight_now(&self, now: Tick, weight: u16, policy: &HealthPolicy) -> u16 {
        let full = in_force(weight);
        let slow_ms = milliseconds(policy.slow_start);
        let elapsed_ms = self
            .joined
            .map_or(slow_ms, |joined| now.since(joined).min(slow_ms));
        let part = (u64::from(full) * elapsed_ms).checked_div(slow_ms);
        part.map_or(full, |part| (part as u16).max(1).min(full))
    }

    /// When to check next, with a tenth more or less by `random`: checks of many backends must not
    /// keep step.
    #[must_use]
    pub fn next_check(now: Tick, random: u32, policy: &HealthPolicy) -> Tick {
        let interval_ms = milliseconds(policy.interval);
        let spread = interval_ms / 5 * u64::from(random) / u64::from(u32::MAX);
        now.after(interval_ms - interval_ms / 10 + spread)
    }

    fn ejection_ms(&self, policy: &HealthPolicy) -> u64 {
        milliseconds(policy.eject_duration).saturating_mul(u64::from(self.times))
    }
}

fn milliseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
