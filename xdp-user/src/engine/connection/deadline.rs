//! How long a connection may stay as it is.

use super::{Connection, Phase, RESET_FLUSH_MS};
use crate::{
    config::Timeouts,
    engine::{Tick, reason::CloseReason},
};

/// `ms` after `since`; never when `ms` is 0.
fn after(since: Tick, ms: u32, reason: CloseReason) -> Option<(Tick, CloseReason)> {
    (ms != 0).then(|| (since.after(u64::from(ms)), reason))
}

impl Connection {
    /// When it ends unless something happens, and why; `None` when no timeout applies. Bytes only
    /// move it later.
    #[must_use]
    pub fn deadline(&self, timeouts: &Timeouts) -> Option<(Tick, CloseReason)> {
        match self.phase {
            Phase::Header => {
                let reason = CloseReason::HeaderTimeout;
                after(self.phase_since, timeouts.header_ms, reason)
            }
            Phase::Waiting | Phase::Connecting => {
                let reason = CloseReason::ConnectTimeout;
                after(self.phase_since, timeouts.connect_ms, reason)
            }
            Phase::Open => self.earliest(timeouts),
            Phase::Resetting(_) => after(self.last_activity, RESET_FLUSH_MS, self.cause),
            Phase::Closed => None,
        }
    }

    /// The earliest of what limits an open connection.
    fn earliest(&self, timeouts: &Timeouts) -> Option<(Tick, CloseReason)> {
        let (opened, silent) = (self.phase_since, self.last_activity);
        let [client_closed, backend_closed] = self.fin_received;
        let limits = [
            (
                !self.passed,
                after(
                    opened,
                    timeouts.first_byte_ms,
                    CloseReason::FirstByteTimeout,
                ),
            ),
            (
                client_closed,
                after(
                    silent,
                    timeouts.close_wait_ms,
                    CloseReason::CloseWaitTimeout,
                ),
            ),
            (
                backend_closed,
                after(silent, timeouts.fin_wait_ms, CloseReason::FinWaitTimeout),
            ),
            (
                true,
                after(silent, timeouts.idle_ms, CloseReason::IdleTimeout),
            ),
        ];
        let applying = limits.into_iter().filter(|(applies, _)| *applies);
        applying
            .filter_map(|(_, limit)| limit)
            .min_by_key(|(at, _)| *at)
    }
}
