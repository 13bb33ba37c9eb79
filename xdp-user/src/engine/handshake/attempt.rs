//! One target after the other.

use super::{
    Handshakes,
    client::Client,
    effects::{Flows as _, Service, World},
    half_open::{HalfOpen, Tried},
    opening,
    outcome::{Notice, Outcome},
    segments,
};
use crate::engine::{Tick, reason::ConnectError};

/// How long to wait after the first SYN to a target, milliseconds; twice as long after each further
/// one (RFC 6298 5.5).
///
/// RFC 6298 2.1 says one second where no round trip was measured. Those to targets are: a health
/// check makes one every few seconds, and a target that takes longer than this would fail it or be
/// noticed. This is what Linux waits at least once it has measured (`TCP_RTO_MIN`). If a target does
/// take longer, it gets a SYN twice, and answers the second like the first.
pub const SYN_WAIT_MS: u32 = 200;

/// How long to wait for a neighbour to be resolved, or for a target to forget another connection,
/// milliseconds. Both take a round trip in the local network.
pub const RETRY_MS: u32 = 20;

impl Handshakes {
    /// Starts a handshake with a target for a client whose cookie came back.
    pub(super) fn start(
        &mut self,
        now: Tick,
        client: Client,
        service: &Service,
        world: &mut impl World,
    ) {
        if !self.queue.has_room(service) {
            return world.ended(service.id, Outcome::HalfOpenFull, 0);
        }
        let mut tried = Tried::default();
        match opening::next(now, &client, service, &mut tried, Outcome::NoTarget, world) {
            Ok(attempt) => {
                let key = self.queue.insert(HalfOpen {
                    client,
                    service: *service,
                    since: now,
                    tried,
                    attempt,
                });
                self.send_syn(now, key, world);
            }
            Err(outcome) => {
                world.send(&segments::client_reset(&client));
                world.ended(service.id, outcome, 0);
            }
        }
    }

    /// The target that was tried has failed: goes on to another, or gives up.
    pub(super) fn attempt_failed(
        &mut self,
        now: Tick,
        key: u32,
        error: ConnectError,
        world: &mut impl World,
    ) {
        let Some(entry) = self.queue.get_mut(key) else {
            return;
        };
        let failed = *entry;
        world.flows_mut().close(failed.attempt.flow);
        if error != ConnectError::Refused {
            reset_target(&failed, world);
        }
        world.attempted(failed.service.id, &failed.attempt.choice, Err(error));
        let HalfOpen {
            client, service, ..
        } = failed;
        let mut tried = failed.tried;
        let outcome = Outcome::after(error);
        match opening::next(now, &client, &service, &mut tried, outcome, world) {
            Ok(attempt) => {
                world.notice(service.id, Notice::FailedOver);
                self.queue.replace(
                    key,
                    HalfOpen {
                        tried,
                        attempt,
                        ..failed
                    },
                );
                self.send_syn(now, key, world);
            }
            Err(outcome) => {
                self.queue.remove(key);
                self.timers.clear(key);
                world.send(&segments::client_reset(&client));
                world.ended(service.id, outcome, now.since(failed.since));
            }
        }
    }

    /// Something is due: the SYN once more, or the end of the attempt.
    pub(super) fn timed_out(&mut self, now: Tick, key: u32, world: &mut impl World) {
        let Some(entry) = self.queue.get_mut(key) else {
            return;
        };
        if now < entry.attempt.deadline {
            return self.send_syn(now, key, world);
        }
        let error = if entry.attempt.sent {
            ConnectError::Timeout
        } else {
            ConnectError::Unreachable
        };
        self.attempt_failed(now, key, error, world);
    }

    /// Sends the SYN, if the way is known, and sets the timer.
    fn send_syn(&mut self, now: Tick, key: u32, world: &mut impl World) {
        let Some(entry) = self.queue.get_mut(key) else {
            return;
        };
        let service = entry.service.id;
        let wait_ms = match world.hop(entry.attempt.choice.target) {
            Some(hop) => {
                world.send(&segments::syn(entry, hop));
                let attempt = &mut entry.attempt;
                if std::mem::replace(&mut attempt.sent, true) {
                    world.notice(service, Notice::SynRetransmitted);
                }
                let doubled = attempt.wait_ms.saturating_mul(2);
                std::mem::replace(&mut attempt.wait_ms, doubled)
            }
            None => {
                world.notice(service, Notice::HopUnknown);
                RETRY_MS
            }
        };
        let due = now.after(u64::from(wait_ms)).min(entry.attempt.deadline);
        self.timers.set(key, due);
    }
}

/// Tells a target that may have answered that there is nobody.
pub(super) fn reset_target(entry: &HalfOpen, world: &mut impl World) {
    if !entry.attempt.sent {
        return;
    }
    if let Some(hop) = world.hop(entry.attempt.choice.target) {
        world.send(&segments::target_reset(entry, hop));
    }
}
