//! The proxy's decisions, without I/O: what happened goes in, what to do comes out.
//!
//! **Architecture invariant:** nothing here reads a clock, touches a socket or holds a lock. Time is
//! passed in as a [`Tick`], so that everything can be simulated in virtual time.

// First: the modules after it use its macro.
#[macro_use]
mod labels;

mod address;
pub mod balancer;
pub mod connection;
pub mod half_open;
pub mod handshake;
pub mod health;
pub mod limits;
pub mod maglev;
pub mod rate;
pub mod reaper;
pub mod reason;
#[cfg(test)]
mod sim;
pub mod tcp;
pub mod wheel;

use std::time::Duration;

/// Milliseconds since the proxy started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u64);

impl Tick {
    /// The time `ms` later.
    #[must_use]
    pub const fn after(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds since an earlier time; 0 if it was later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// A point in time as a tick of a clock that started at `start`.
    #[must_use]
    pub const fn of(elapsed: Duration) -> Self {
        Self(elapsed.as_millis() as u64)
    }
}
