//! One proxied connection: what happened goes in as [`Event`], what to do comes out as [`Action`].
//!
//! The rules are those of two hosts that talk directly: a FIN is passed on when all bytes before
//! it were, and the other direction goes on; a RST or an error on one side is a RST for the other,
//! after the bytes that were sent before it.

mod deadline;
mod event;
#[cfg(test)]
mod tests;

pub use event::{Action, Actions, Event, LegError};

use super::{
    Tick,
    reason::{CloseReason, ConnectError},
    tcp::{Side, TcpState},
};
use crate::config::Timeouts;

/// How long bytes that were sent before a RST may wait for the receiver to take the next of them,
/// milliseconds. As long as the first retransmission of RFC 6298.
pub const RESET_FLUSH_MS: u32 = 1_000;

/// What a connection is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// An upstream has to send its PROXY header.
    Header,
    /// For a place in the half-open queue.
    Waiting,
    /// To a backend.
    Connecting,
    /// Bytes flow, in one direction at least.
    Open,
    /// The other side is gone; this one gets what was sent before, then a RST.
    Resetting(Side),
    /// Over.
    Closed,
}

/// The state machine of one connection.
///
/// The driver's part: call [`handle`](Self::handle) for what happens and [`touch`](Self::touch)
/// for bytes, carry the actions out in order, and after each `handle` put
/// [`deadline`](Self::deadline) into the wheel. [`state`](Self::state) before and after shows
/// what moved; it is CLOSED on both legs after [`Action::CloseBoth`].
#[derive(Clone, Debug)]
pub struct Connection {
    phase_since: Tick,
    last_activity: Tick,
    phase: Phase,
    legs: [TcpState; 2],
    fin_received: [bool; 2],
    fin_passed: [bool; 2],
    /// Why it will have ended, while `Resetting`.
    cause: CloseReason,
    connect_error: Option<ConnectError>,
    retries_left: u8,
    /// Whether a byte was passed on since the backend is connected.
    passed: bool,
    draining: bool,
}

impl Connection {
    /// A client's connection that was accepted at `now`. A failed connect is tried again at most
    /// `retries` times.
    #[must_use]
    pub const fn new(now: Tick, retries: u8) -> Self {
        Self {
            phase_since: now,
            last_activity: now,
            phase: Phase::Waiting,
            legs: [TcpState::Established, TcpState::Closed],
            fin_received: [false; 2],
            fin_passed: [false; 2],
            cause: CloseReason::Io,
            connect_error: None,
            retries_left: retries,
            passed: false,
            draining: false,
        }
    }

    /// State of a leg.
    #[must_use]
    pub const fn state(&self, side: Side) -> TcpState {
        self.legs[side.index()]
    }

    /// What it is about.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// When the last byte was passed on, or else the last thing happened that counts as a sign of
    /// life.
    #[must_use]
    pub const fn last_activity(&self) -> Tick {
        self.last_activity
    }

    /// Whether a connect that fails now is tried again.
    #[must_use]
    pub const fn may_retry(&self) -> bool {
        matches!(self.phase, Phase::Connecting) && self.retries_left > 0 && !self.draining
    }

    /// At least one byte was passed on, in whatever direction; while a flush is awaited: at least
    /// one was sent.
    pub const fn touch(&mut self, now: Tick) {
        self.last_activity = now;
        self.passed = true;
    }

    /// What to do after `event`.
    pub fn handle(&mut self, now: Tick, event: Event, timeouts: &Timeouts) -> Actions {
        match event {
            Event::Killed => self.end(CloseReason::Killed),
            Event::DrainExpired => self.end(CloseReason::DrainTimeout),
            Event::Draining => {
                self.draining = true;
                Actions::NONE
            }
            Event::Timer => self.on_timer(now, timeouts),
            Event::Reset { side, unsent } => {
                let reason = match side {
                    Side::Client => CloseReason::ClientReset,
                    Side::Backend => CloseReason::BackendReset,
                };
                self.on_broken(now, side, unsent, reason, ConnectError::Refused)
            }
            Event::Error { side, kind, unsent } => self.on_broken(
                now,
                side,
                unsent,
                kind.close_reason(side),
                kind.connect_error(),
            ),
            other => match self.phase {
                Phase::Header | Phase::Waiting | Phase::Connecting => self.before_open(now, other),
                Phase::Open => self.while_open(now, other),
                Phase::Resetting(side) if other == Event::Flushed(side) => self.end(self.cause),
                Phase::Resetting(_) | Phase::Closed => Actions::NONE,
            },
        }
    }

    fn before_open(&mut self, now: Tick, event: Event) -> Actions {
        match (self.phase, event) {
            (
                Phase::Waiting,
                Event::Accepted {
                    header_expected: true,
                },
            ) => {
                self.enter(now, Phase::Header);
                Actions::NONE
            }
            (Phase::Waiting, Event::Accepted { .. }) => Actions::one(Action::Admit),
            (Phase::Header, Event::Header) => {
                self.enter(now, Phase::Waiting);
                Actions::one(Action::Admit)
            }
            (Phase::Header, Event::HeaderInvalid | Event::Fin(Side::Client)) => {
                self.end(CloseReason::HeaderInvalid)
            }
            (Phase::Waiting, Event::Admitted) => self.connect(now),
            (Phase::Connecting, Event::Connected) => {
                self.enter(now, Phase::Open);
                self.last_activity = now;
                self.legs[Side::Backend.index()] = TcpState::SynSent.on_connected();
                Actions::one(Action::Open)
            }
            (Phase::Connecting, Event::ConnectFailed(error)) => self.connect_failed(now, error),
            (Phase::Connecting, Event::NoBackend) => {
                self.legs[Side::Backend.index()] = TcpState::Closed;
                self.end(
                    self.connect_error
                        .map_or(CloseReason::NoBackend, ConnectError::close_reason),
                )
            }
            (_, Event::Evicted) => self.end(CloseReason::HalfOpenEvicted),
            (_, Event::Refused) => self.end(CloseReason::Refused),
            _ => Actions::NONE,
        }
    }

    fn while_open(&mut self, now: Tick, event: Event) -> Actions {
        match event {
            Event::FinReceived(side) => {
                self.fin_received(now, side);
                Actions::NONE
            }
            Event::Fin(side) if !self.fin_passed[side.index()] => {
                self.fin_received(now, side);
                self.fin_passed[side.index()] = true;
                let to = side.other();
                self.legs[to.index()] = self.state(to).on_fin_sent();
                let mut actions = Actions::one(Action::ShutdownWrite(to));
                if self.fin_passed[to.index()] {
                    actions.push(self.close(CloseReason::Finished));
                }
                actions
            }
            Event::FinAcked(side) => {
                self.legs[side.index()] = self.state(side).on_fin_acked();
                Actions::NONE
            }
            _ => Actions::NONE,
        }
    }

    fn fin_received(&mut self, now: Tick, side: Side) {
        if !self.fin_received[side.index()] {
            self.fin_received[side.index()] = true;
            self.last_activity = now;
            self.legs[side.index()] = self.state(side).on_fin_received();
        }
    }

    fn on_timer(&mut self, now: Tick, timeouts: &Timeouts) -> Actions {
        match self.deadline(timeouts) {
            Some((at, reason)) if at <= now => {
                if self.phase != Phase::Connecting {
                    return self.end(reason);
                }
                let mut actions = Actions::one(Action::AbandonConnect);
                for action in self.connect_failed(now, ConnectError::Timeout) {
                    actions.push(action);
                }
                actions
            }
            _ => Actions::NONE,
        }
    }

    fn connect(&mut self, now: Tick) -> Actions {
        self.enter(now, Phase::Connecting);
        self.legs[Side::Backend.index()] = TcpState::SynSent;
        Actions::one(Action::Connect)
    }

    fn connect_failed(&mut self, now: Tick, error: ConnectError) -> Actions {
        self.legs[Side::Backend.index()] = TcpState::Closed;
        self.connect_error = Some(error);
        // Another attempt needs a file descriptor as well.
        if self.may_retry() && error != ConnectError::Fds {
            self.retries_left -= 1;
            return self.connect(now);
        }
        self.end(error.close_reason())
    }

    fn on_broken(
        &mut self,
        now: Tick,
        side: Side,
        unsent: bool,
        reason: CloseReason,
        connect_error: ConnectError,
    ) -> Actions {
        match self.phase {
            Phase::Closed => Actions::NONE,
            Phase::Resetting(to) if side == to => {
                self.legs[side.index()] = TcpState::Closed;
                self.end(self.cause)
            }
            Phase::Resetting(_) => Actions::NONE,
            Phase::Connecting if side == Side::Backend => self.connect_failed(now, connect_error),
            Phase::Header | Phase::Waiting | Phase::Connecting => {
                self.legs[side.index()] = TcpState::Closed;
                self.end(reason)
            }
            Phase::Open => {
                self.legs[side.index()] = TcpState::Closed;
                if !unsent {
                    return self.end(reason);
                }
                let to = side.other();
                self.enter(now, Phase::Resetting(to));
                self.last_activity = now;
                self.cause = reason;
                Actions::one(Action::AwaitFlush(to))
            }
        }
    }

    /// A RST for each side that is still there, and the end. The first cause counts.
    fn end(&mut self, reason: CloseReason) -> Actions {
        let mut actions = Actions::NONE;
        let reason = match self.phase {
            Phase::Closed => return actions,
            Phase::Resetting(_) => self.cause,
            _ => reason,
        };
        for side in Side::ALL {
            if self.state(side) != TcpState::Closed {
                actions.push(Action::Reset(side));
            }
        }
        actions.push(self.close(reason));
        actions
    }

    fn close(&mut self, reason: CloseReason) -> Action {
        self.phase = Phase::Closed;
        self.legs = [TcpState::Closed; 2];
        Action::CloseBoth(reason)
    }

    const fn enter(&mut self, now: Tick, phase: Phase) {
        self.phase = phase;
        self.phase_since = now;
    }
}

const _: () = assert!(size_of::<Connection>() <= 64);
