//! Flows that were ended while both ends may still be talking.
//!
//! A RST is taken only with the number that its receiver expects (RFC 5961 3.2), and that is known
//! exactly only if nothing is on its way. So a flow that is ended stays for a moment, handed over to
//! this thread: whoever still sends is answered with the number that its segment itself asks for
//! (RFC 9293 3.10.7.1).

use std::collections::{HashMap, VecDeque};

use xdp_common::{
    tuple::Tuple,
    wire::{
        tcp::{Flags, Kind},
        tcp_options::TcpOptions,
    },
};

use crate::engine::{
    Tick,
    handshake::{effects::FlowId, outgoing::Outgoing, received::Received},
};

/// How long an ended flow stays, milliseconds: what is on its way arrives, and a segment that was
/// lost is sent once more.
pub(super) const LINGER_MS: u64 = 2000;

/// The flows that were ended less than [`LINGER_MS`] ago.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// With the time of their end.
    flows: HashMap<FlowId, Tick>,
    /// In the order of their end, those included that were forgotten since.
    order: VecDeque<(Tick, FlowId)>,
}

/// What to do about a segment of an ended flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing.
    None,
    /// A RST.
    Reset(Outgoing),
    /// Forget the flow: its client begins another connection, and will repeat this SYN.
    Forget,
}

impl Ending {
    pub(super) fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    pub(super) fn contains(&self, flow: FlowId) -> bool {
        self.flows.contains_key(&flow)
    }

    /// A flow was ended.
    pub(super) fn enter(&mut self, now: Tick, flow: FlowId) {
        self.flows.insert(flow, now);
        self.order.push_back((now, flow));
    }

    /// Forgets a flow. True if it was there.
    pub(super) fn forget(&mut self, flow: FlowId) -> bool {
        self.flows.remove(&flow).is_some()
    }

    /// A flow whose time is over; it is forgotten.
    pub(super) fn expired(&mut self, now: Tick) -> Option<FlowId> {
        while let Some(&(since, flow)) = self.order.front() {
            let is_there = self.flows.get(&flow) == Some(&since);
            if is_there && now.since(since) < LINGER_MS {
                return None;
            }
            self.order.pop_front();
            if is_there {
                self.flows.remove(&flow);
                return Some(flow);
            }
        }
        None
    }

    /// When the next flow's time is over.
    pub(super) fn due(&self) -> Option<Tick> {
        self.order.front().map(|(since, _)| since.after(LINGER_MS))
    }
}

/// What to do about a segment of an ended flow.
pub(super) fn answer(segment: &Received) -> Answer {
    match segment.kind {
        Kind::Rst => Answer::None,
        Kind::Syn => Answer::Forget,
        Kind::SynAck | Kind::Ack => Answer::Reset(Outgoing {
            hop: segment.hop,
            family: segment.family,
            tuple: Tuple {
                src: segment.tuple.dst,
                dst: segment.tuple.src,
                src_port: segment.tuple.dst_port,
                dst_port: segment.tuple.src_port,
            },
            seq: segment.ack,
            ack: 0,
            flags: Flags::RST,
            window: 0,
            options: TcpOptions::default(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use xdp_common::{cookie::Family, splice::flow::Hop, tuple::Addr};

    use super::*;

    #[test]
    fn a_flow_stays_for_a_moment() {
        let mut ending = Ending::default();
        assert_eq!((ending.is_empty(), ending.due()), (true, None));
        ending.enter(Tick(5), FlowId(1));
        ending.enter(Tick(6), FlowId(2));
        ending.enter(Tick(7), FlowId(3));
        assert_eq!(ending.due(), Some(Tick(5 + LINGER_MS)));
        assert_eq!(ending.expired(Tick(4 + LINGER_MS)), None);
        assert!(ending.contains(FlowId(1)) && ending.forget(FlowId(1)));
        assert!(!ending.forget(FlowId(1)));
        let now = Tick(6 + LINGER_MS);
        assert_eq!(ending.expired(now), Some(FlowId(2)));
        assert_eq!(ending.expired(now), None);
        assert_eq!(ending.expired(Tick(7 + LINGER_MS)), Some(FlowId(3)));
        assert!(ending.is_empty());
    }

    /// A number is used again after it has rested: its former life must not shorten the next one.
    #[test]
    fn what_was_forgotten_is_not_expired_later() {
        let mut ending = Ending::default();
        ending.enter(Tick(0), FlowId(1));
        ending.forget(FlowId(1));
        ending.enter(Tick(1900), FlowId(1));
        assert_eq!(ending.expired(Tick(LINGER_MS)), None);
        assert_eq!(ending.expired(Tick(1900 + LINGER_MS)), Some(FlowId(1)));
    }

    #[test]
    fn whoever_still_sends_gets_the_number_that_it_asks_for() {
        let addr = |last| Addr::v4([192, 0, 2, last]);
        let mut segment = Received {
            hop: Hop::default(),
            family: Family::V4,
            tuple: Tuple {
                src: addr(1),
                dst: addr(2),
                src_port: 3,
                dst_port: 4,
            },
            kind: Kind::Ack,
            seq: 100,
            ack: 200,
            flags: Flags::ACK,
            window: 1,
            options: TcpOptions::default(),
        };
        let Answer::Reset(reset) = answer(&segment) else {
            panic!("no RST");
        };
        assert_eq!((reset.seq, reset.flags), (200, Flags::RST));
        assert_eq!((reset.tuple.src, reset.tuple.dst_port), (addr(2), 3));
        segment.kind = Kind::Rst;
        assert_eq!(answer(&segment), Answer::None);
        segment.kind = Kind::Syn;
        assert_eq!(answer(&segment), Answer::Forget);
    }
}
