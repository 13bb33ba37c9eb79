//! When a spliced connection's time is over, and how both ends are told.
//!
//! The data path notes in each flow when a packet from either side was last seen, and FINs, RSTs and
//! acknowledgements; nothing else is known of a connection, and nothing else is needed. Any packet
//! counts as life, a keepalive probe too: whoever sends probes wants the connection.

use xdp_common::{
    splice::flow::{
        CLIENT, Flow, FlowState, MARK_ACKED, MARK_RST, MARK_RST_LIKELY, Seen, TARGET, reached,
    },
    tuple::{Addr, Tuple},
    wire::tcp::Flags,
};

use super::{reason::CloseReason, tcp::Side};

/// How long a flow stays after a RST, seconds: the other side's packets that are on their way
/// already are still brought to whoever answers them.
pub const CLOSED_S: u32 = 2;

/// How long a flow of a service stays without a packet, seconds, by its state; `u32::MAX` for ever.
/// Clocks tick in seconds, so that a flow is removed up to a second late and never early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Open both ways.
    pub idle_s: u32,
    /// Closed by the client: CLOSE_WAIT at the target.
    pub close_wait_s: u32,
    /// Closed by the target: CLOSE_WAIT at the client.
    pub fin_wait_s: u32,
    /// Closed by both, not acknowledged by both: CLOSING, LAST_ACK.
    pub last_ack_s: u32,
    /// Closed and acknowledged by both (RFC 9293 3.6.1: 2 MSL).
    pub time_wait_s: u32,
}

impl Timeouts {
    /// How long a flow in this state stays without a packet, seconds; `None` for ever, and for a
    /// handshake, which has timers of its own.
    #[must_use]
    pub const fn of(&self, state: FlowState) -> Option<u32> {
        let timeout_s = match state {
            FlowState::SynSent => return None,
            FlowState::Established => self.idle_s,
            FlowState::ClientClosed => self.close_wait_s,
            FlowState::TargetClosed => self.fin_wait_s,
            FlowState::Closing => self.last_ack_s,
            FlowState::TimeWait => self.time_wait_s,
            FlowState::Closed => CLOSED_S,
        };
        if timeout_s == u32::MAX {
            return None;
        }
        Some(timeout_s)
    }
}

/// The end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reaped {
    /// Why.
    pub reason: CloseReason,
    /// Whether there is a connection left, of which both ends are to be told.
    pub reset: bool,
}

/// Whether an open flow's time is over at `clock_s`.
#[must_use]
pub fn judge(flow: &Flow, clock_s: u32, timeouts: &Timeouts) -> Option<Reaped> {
    let state = flow.tcp_state();
    if silent_s(flow, clock_s) <= timeouts.of(state)? {
        return None;
    }
    let (reason, reset) = match state {
        FlowState::SynSent => return None,
        FlowState::Established => (CloseReason::IdleTimeout, true),
        FlowState::ClientClosed => (CloseReason::CloseWaitTimeout, true),
        FlowState::TargetClosed => (CloseReason::FinWaitTimeout, true),
        FlowState::Closing => (gone_silent(flow), true),
        FlowState::TimeWait => (CloseReason::Finished, false),
        FlowState::Closed => (reset_by(flow), false),
    };
    Some(Reaped { reason, reset })
}

/// After how many seconds of silence a side is [asked](probe) whether it is still there.
const ASK_AFTER_S: [u32; 3] = [2, 10, 60];

/// The sides that have probably ended the connection, with a RST that cannot be judged, and are to
/// be asked at `clock_s`. This is asked once a second.
pub fn doubtful(flow: &Flow, clock_s: u32) -> impl Iterator<Item = Side> {
    // The mark is looked at first, for hardly any flow has it.
    let is_doubtful = |seen: Seen| {
        seen.marks & MARK_RST_LIKELY != 0
            && ASK_AFTER_S.contains(&silent_s(flow, clock_s))
            && !flow.is_over()
    };
    let sides = [(Side::Client, CLIENT), (Side::Backend, TARGET)];
    let doubtful = sides.map(|(side, index)| is_doubtful(flow.seen[index]).then_some(side));
    doubtful.into_iter().flatten()
}

/// Seconds since the last packet from either side. Each side's clock is read as a distance from
/// now: one that seems to be ahead, as after a clock that went back, counts as now.
#[must_use]
pub fn silent_s(flow: &Flow, clock_s: u32) -> u32 {
    let since = |seen: Seen| u32::try_from(clock_s.wrapping_sub(seen.at_s).cast_signed());
    let [client, target] = flow.seen.map(|seen| since(seen).unwrap_or(0));
    client.min(target)
}

/// Whose acknowledgement of the other's FIN is missing. Both may be: then it is the client that is
/// named.
fn gone_silent(flow: &Flow) -> CloseReason {
    let [client, target] = flow.seen;
    if reached(client, target.fin.wrapping_add(flow.seq_delta)) {
        CloseReason::BackendTimedOut
    } else {
        CloseReason::ClientTimedOut
    }
}

fn reset_by(flow: &Flow) -> CloseReason {
    if flow.seen[CLIENT].marks & MARK_RST != 0 {
        CloseReason::ClientReset
    } else {
        CloseReason::BackendReset
    }
}

/// Address and port.
pub type Place = (Addr, u16);

/// A segment for one end of a connection, as the other end would send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spoken {
    /// Addresses and ports, from the other end or what that end takes for it.
    pub tuple: Tuple,
    /// Sequence number.
    pub seq: u32,
    /// What the other end has acknowledged last.
    pub ack: u32,
    /// Control bits: ACK if `ack` is known.
    pub flags: Flags,
}

/// A keepalive probe for `side` (RFC 9293 3.8.4). An end that is still there answers with its last
/// ACK, and one that is not with a RST that has exactly the number that the other end expects.
/// `None` if it is not known what either has acknowledged. For the rest see [`reset`].
#[must_use]
pub fn probe(flow: &Flow, side: Side, service: Place, target: Place) -> Option<Spoken> {
    let reset = reset(flow, side, service, target)?;
    reset.flags.has(Flags::ACK).then(|| Spoken {
        seq: reset.seq.wrapping_sub(1),
        flags: Flags::ACK,
        ..reset
    })
}

/// The RST for `side`; `None` if that side has never acknowledged anything, so that no number is
/// known that it would take: any but exactly that one is challenged or ignored (RFC 5961 3.2).
/// `service` and `target` are the addresses and ports of the service and of the target.
#[must_use]
pub fn reset(flow: &Flow, side: Side, service: Place, target: Place) -> Option<Spoken> {
    let acked = |seen: Seen| (seen.marks & MARK_ACKED != 0).then_some(seen.acked);
    let by_client = acked(flow.seen[CLIENT]);
    let by_target = acked(flow.seen[TARGET]);
    let (src, dst, seq, ack) = match side {
        // The client's numbers are the same on both sides; the target's are not.
        Side::Client => {
            let client = (flow.client, flow.client_port);
            (service, client, by_client?, by_target)
        }
        Side::Backend => {
            let ack = by_client.map(|acked| acked.wrapping_sub(flow.seq_delta));
            ((flow.nat, flow.nat_port), target, by_target?, ack)
        }
    };
    Some(Spoken {
        tuple: Tuple {
            src: src.0,
            dst: dst.0,
            src_port: src.1,
            dst_port: dst.1,
        },
        seq,
        ack: ack.unwrap_or(0),
        flags: match ack {
            Some(_) => Flags::RST.with(Flags::ACK),
            None => Flags::RST,
        },
    })
}

#[cfg(test)]
mod tests {
    use xdp_common::splice::flow::{MARK_FIN, STATE_OPEN, STATE_PENDING};

    use super::*;

    const TIMEOUTS: Timeouts = Timeouts {
        idle_s: 100,
        close_wait_s: 20,
        fin_wait_s: 30,
        last_ack_s: 40,
        time_wait_s: 50,
    };

    /// Both sides were last seen at 1000, have acknowledged 500 and 700, and none has closed.
    fn open() -> Flow {
        let seen = |acked| Seen {
            at_s: 1000,
            acked,
            marks: MARK_ACKED,
            ..Seen::default()
        };
        Flow {
            client: Addr::v4([192, 0, 2, 1]),
            client_port: 1,
            nat: Addr::v4([192, 0, 2, 2]),
            nat_port: 2,
            state: STATE_OPEN,
            seq_delta: 100,
            seen: [seen(500), seen(700)],
            ..Flow::default()
        }
    }

    fn with_fin(mut flow: Flow, side: usize, fin: u32) -> Flow {
        flow.seen[side].marks |= MARK_FIN;
        flow.seen[side].fin = fin;
        flow
    }

    /// The second at which a flow goes, and why.
    fn end(flow: &Flow) -> (u32, CloseReason, bool) {
        let reaped = |clock_s| judge(flow, clock_s, &TIMEOUTS).map(|reaped| (clock_s, reaped));
        let (clock_s, reaped) = (1000..2000).find_map(reaped).expect("it ends");
        (clock_s - 1000, reaped.reason, reaped.reset)
    }

    #[test]
    fn every_state_has_its_timeout_and_reason() {
        let open = open();
        assert_eq!(end(&open), (101, CloseReason::IdleTimeout, true));
        let client_closed = with_fin(open, CLIENT, 700);
        assert_eq!(
            end(&client_closed),
            (21, CloseReason::CloseWaitTimeout, true)
        );
        let target_closed = with_fin(open, TARGET, 400);
        assert_eq!(end(&target_closed), (31, CloseReason::FinWaitTimeout, true));
        let both = with_fin(client_closed, TARGET, 400);
        assert_eq!(end(&both), (51, CloseReason::Finished, false));
        let target_silent = with_fin(with_fin(open, CLIENT, 701), TARGET, 400);
        assert_eq!(
            end(&target_silent),
            (41, CloseReason::BackendTimedOut, true)
        );
        let client_silent = with_fin(client_closed, TARGET, 401);
        assert_eq!(end(&client_silent), (41, CloseReason::ClientTimedOut, true));
        for (side, reason) in [
            (CLIENT, CloseReason::ClientReset),
            (TARGET, CloseReason::BackendReset),
        ] {
            let mut reset = open;
            reset.seen[side].marks |= MARK_RST;
            assert_eq!(end(&reset), (CLOSED_S + 1, reason, false));
        }
    }

    #[test]
    fn a_timeout_may_be_for_ever() {
        let timeouts = Timeouts {
            idle_s: u32::MAX,
            ..TIMEOUTS
        };
        assert_eq!(judge(&open(), 1000 + u32::MAX / 2, &timeouts), None);
    }

    #[test]
    fn handshakes_are_the_engines_business() {
        let pending = Flow {
            state: STATE_PENDING,
            ..open()
        };
        assert_eq!(judge(&pending, 100_000, &TIMEOUTS), None);
    }

    #[test]
    fn a_packet_from_either_side_is_life_and_clocks_wrap() {
        let mut flow = open();
        flow.seen[TARGET].at_s = 1005;
        assert_eq!(silent_s(&flow, 1006), 1);
        flow.seen[CLIENT].at_s = u32::MAX - 1;
        flow.seen[TARGET].at_s = u32::MAX - 3;
        assert_eq!(silent_s(&flow, 3), 5);
        flow.seen[CLIENT].at_s = 4;
        assert_eq!(silent_s(&flow, 3), 0, "ahead");
    }

    #[test]
    fn resets_have_the_numbers_that_each_side_waits_for() {
        let service = (Addr::v4([198, 51, 100, 1]), 80);
        let target = (Addr::v4([10, 0, 0, 1]), 8080);
        let flow = open();
        let to_client = reset(&flow, Side::Client, service, target).expect("known");
        let expected = Spoken {
            tuple: Tuple {
                src: service.0,
                dst: flow.client,
                src_port: 80,
                dst_port: 1,
            },
            seq: 500,
            ack: 700,
            flags: Flags::RST.with(Flags::ACK),
        };
        assert_eq!(to_client, expected);
        let to_target = reset(&flow, Side::Backend, service, target).expect("known");
        let expected = Spoken {
            tuple: Tuple {
                src: flow.nat,
                dst: target.0,
                src_port: 2,
                dst_port: 8080,
            },
            seq: 700,
            ack: 400,
            flags: Flags::RST.with(Flags::ACK),
        };
        assert_eq!(to_target, expected);
    }

    #[test]
    fn who_has_probably_gone_is_asked() {
        let (service, target) = ((Addr::v4([198, 51, 100, 1]), 80), (Addr::default(), 2));
        let mut flow = open();
        let asked = |flow: &Flow| -> Vec<_> {
            let seconds = 1000..1200;
            let asked = seconds.flat_map(|clock_s| {
                doubtful(flow, clock_s).map(move |side| (clock_s - 1000, side))
            });
            asked.collect()
        };
        assert_eq!(asked(&flow), []);
        flow.seen[TARGET].marks |= MARK_RST_LIKELY;
        let backend = |seconds| (seconds, Side::Backend);
        assert_eq!(asked(&flow), ASK_AFTER_S.map(backend));
        flow.seen[CLIENT].marks |= MARK_RST_LIKELY;
        assert_eq!(asked(&flow)[..2], [(2, Side::Client), backend(2)]);
        let to_client = probe(&flow, Side::Client, service, target).expect("known");
        assert_eq!((to_client.seq, to_client.ack), (499, 700));
        assert_eq!(to_client.flags, Flags::ACK);
        flow.seen[CLIENT].marks |= MARK_RST;
        assert_eq!(asked(&flow), [], "it is known now");
    }

    #[test]
    fn who_has_acknowledged_nothing_is_told_nothing() {
        let (service, target) = ((Addr::default(), 1), (Addr::default(), 2));
        let mut flow = open();
        flow.seen[CLIENT].marks = 0;
        assert_eq!(reset(&flow, Side::Client, service, target), None);
        for side in [Side::Client, Side::Backend] {
            assert_eq!(probe(&flow, side, service, target), None);
        }
        let to_target = reset(&flow, Side::Backend, service, target).expect("known");
        assert_eq!(
            (to_target.seq, to_target.ack, to_target.flags),
            (700, 0, Flags::RST)
        );
    }
}
