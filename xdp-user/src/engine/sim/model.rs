//! What a connection's states and deadline have to be, worked out from the history of it and not
//! from a state machine.

use crate::{
    config::Timeouts,
    engine::{
        Tick,
        connection::RESET_FLUSH_MS,
        reason::CloseReason,
        tcp::{Side, TcpState},
    },
};

/// When things happened to one side.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct History {
    pub(super) fin_in: Option<u32>,
    pub(super) fin_out: Option<u32>,
    pub(super) fin_acked: Option<u32>,
    pub(super) broken: bool,
}

/// The history of one connection. What happens is numbered.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) sides: [History; 2],
    pub(super) accepted: Tick,
    pub(super) header: bool,
    pub(super) header_done: Tick,
    /// Attempts to connect, and the last of them.
    pub(super) attempts: u32,
    pub(super) connect_since: Option<Tick>,
    pub(super) connected: Option<Tick>,
    pub(super) last_byte: Option<Tick>,
    pub(super) last_fin: Option<Tick>,
    /// What broke first while it was connected.
    pub(super) broken: Option<(Tick, Side, CloseReason)>,
    pub(super) draining: bool,
    pub(super) ended: Option<CloseReason>,
    happened: u32,
}

impl Model {
    pub(super) fn new(accepted: Tick, header: bool) -> Self {
        Self {
            sides: [History::default(); 2],
            accepted,
            header,
            header_done: accepted,
            attempts: 0,
            connect_since: None,
            connected: None,
            last_byte: None,
            last_fin: None,
            broken: None,
            draining: false,
            ended: None,
            happened: 0,
        }
    }

    /// The number of what happens now.
    pub(super) fn next(&mut self) -> u32 {
        self.happened += 1;
        self.happened
    }

    pub(super) fn state(&self, side: Side) -> TcpState {
        let history = self.sides[side.index()];
        if self.ended.is_some() || history.broken {
            return TcpState::Closed;
        }
        if side == Side::Backend && self.connected.is_none() {
            return match self.connect_since {
                Some(_) => TcpState::SynSent,
                None => TcpState::Closed,
            };
        }
        let acked = history.fin_acked;
        match (history.fin_in, history.fin_out) {
            (None, None) => TcpState::Established,
            (Some(_), None) => TcpState::CloseWait,
            (None, Some(_)) if acked.is_some() => TcpState::FinWait2,
            (None, Some(_)) => TcpState::FinWait1,
            (Some(first), Some(second)) if first < second && acked.is_some() => TcpState::Closed,
            (Some(first), Some(second)) if first < second => TcpState::LastAck,
            (Some(_), Some(_)) if acked.is_some() => TcpState::TimeWait,
            (Some(_), Some(_)) => TcpState::Closing,
        }
    }

    pub(super) fn deadline(&self, timeouts: &Timeouts) -> Option<(Tick, CloseReason)> {
        let mut all = Vec::new();
        let mut limit = |since: Tick, ms: u32, reason| {
            if ms > 0 {
                all.push((Tick(since.0 + u64::from(ms)), reason));
            }
        };
        if self.ended.is_some() {
            return None;
        }
        let Some(connected) = self.connected else {
            if self.header {
                limit(
                    self.accepted,
                    timeouts.header_ms,
                    CloseReason::HeaderTimeout,
                );
            } else {
                let since = self.connect_since.unwrap_or(self.header_done);
                limit(since, timeouts.connect_ms, CloseReason::ConnectTimeout);
            }
            return all.pop();
        };
        let signs = [Some(connected), self.last_byte, self.last_fin];
        let last = signs.into_iter().flatten().max().unwrap_or(connected);
        if let Some((since, _, reason)) = self.broken {
            limit(since.max(last), RESET_FLUSH_MS, reason);
            return all.pop();
        }
        if self.last_byte.is_none() {
            limit(
                connected,
                timeouts.first_byte_ms,
                CloseReason::FirstByteTimeout,
            );
        }
        if self.sides[0].fin_in.is_some() {
            limit(last, timeouts.close_wait_ms, CloseReason::CloseWaitTimeout);
        }
        if self.sides[1].fin_in.is_some() {
            limit(last, timeouts.fin_wait_ms, CloseReason::FinWaitTimeout);
        }
        limit(last, timeouts.idle_ms, CloseReason::IdleTimeout);
        all.into_iter().min_by_key(|(at, _)| *at)
    }
}
