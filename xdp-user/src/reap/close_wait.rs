//! Which sockets have been in CLOSE_WAIT for too long. The kernel does not tell since when, so it is
//! counted from when a socket was first seen there.

use super::first_seen::FirstSeen;
use crate::engine::Tick;

/// Sockets remembered; further ones wait until another is gone.
const SEEN_MAX: usize = 131_072;

/// Sockets ended in one sweep; the next one goes on with the rest.
pub(super) const DESTROYED_MAX: usize = 1024;

/// Sockets in CLOSE_WAIT from sweep to sweep.
#[derive(Debug)]
pub(super) struct CloseWait {
    seen: FirstSeen,
}

/// One sweep: every socket in CLOSE_WAIT is [judged](Self::judge).
#[derive(Debug)]
pub(super) struct Sweep<'c, T> {
    seen: &'c mut FirstSeen,
    now: Tick,
    expired: Vec<T>,
    more: bool,
}

/// What a sweep found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found<T> {
    /// What is to be ended, at most [`DESTROYED_MAX`].
    pub(super) expired: Vec<T>,
    /// Whether there was more to be ended.
    pub(super) more: bool,
    /// Sockets whose time does not run yet because too many are remembered.
    pub(super) left_out: u64,
}

impl CloseWait {
    pub(super) fn new() -> Self {
        Self {
            seen: FirstSeen::new(SEEN_MAX),
        }
    }

    pub(super) const fn sweep<T>(&mut self, now: Tick) -> Sweep<'_, T> {
        Sweep {
            seen: &mut self.seen,
            now,
            expired: Vec::new(),
            more: false,
        }
    }
}

impl<T> Sweep<'_, T> {
    /// Takes a socket in CLOSE_WAIT that may be there for `limit_ms`.
    pub(super) fn judge(&mut self, cookie: u64, limit_ms: u64, socket: T) {
        let Some(first) = self.seen.see(cookie, self.now) else {
            return;
        };
        if self.now.since(first) < limit_ms {
            return;
        }
        if self.expired.len() < DESTROYED_MAX {
            self.expired.push(socket);
        } else {
            self.more = true;
        }
    }

    pub(super) fn end(self) -> Found<T> {
        Found {
            expired: self.expired,
            more: self.more,
            left_out: self.seen.end_round(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sweep over sockets with these cookies, and a limit of one second.
    fn sweep(
        close_wait: &mut CloseWait,
        now: u64,
        cookies: impl IntoIterator<Item = u64>,
    ) -> Found<u64> {
        let mut sweep = close_wait.sweep(Tick(now));
        for cookie in cookies {
            sweep.judge(cookie, 1000, cookie);
        }
        sweep.end()
    }

    #[test]
    fn a_socket_is_ended_when_it_was_seen_for_the_limit() {
        let mut close_wait = CloseWait::new();
        assert!(sweep(&mut close_wait, 5000, [1]).expired.is_empty());
        assert!(sweep(&mut close_wait, 5999, [1, 2]).expired.is_empty());
        assert_eq!(sweep(&mut close_wait, 6000, [1, 2]).expired, [1]);
        assert_eq!(sweep(&mut close_wait, 6999, [2]).expired, [2]);
        // Another socket with the addresses of a former one has another cookie.
        assert!(sweep(&mut close_wait, 9000, [3]).expired.is_empty());
    }

    #[test]
    fn each_sweep_ends_a_bounded_number_and_the_next_goes_on() {
        let mut close_wait = CloseWait::new();
        let all = DESTROYED_MAX as u64 * 2 + 5;
        sweep(&mut close_wait, 0, 0..all);
        let mut left: Vec<u64> = (0..all).collect();
        let mut sweeps = 0;
        while !left.is_empty() {
            sweeps += 1;
            let found = sweep(&mut close_wait, 1000 + sweeps, left.iter().copied());
            assert_eq!(found.more, left.len() > DESTROYED_MAX);
            left.drain(..found.expired.len());
        }
        assert_eq!(sweeps, 3);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut close_wait = CloseWait::new();
        let all = SEEN_MAX as u64 + 10;
        assert_eq!(sweep(&mut close_wait, 0, 0..all).left_out, 10);
        let found = sweep(&mut close_wait, 2000, 0..all);
        assert_eq!((found.expired.len(), found.left_out), (DESTROYED_MAX, 10));
    }
}
