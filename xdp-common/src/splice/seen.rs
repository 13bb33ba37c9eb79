//! What a segment tells about its connection: everything that the data path remembers of it.

use super::flow::{CLIENT, Flow, MARK_ACKED, MARK_FIN, MARK_RST, MARK_RST_LIKELY, Seen, TARGET};
use crate::wire::tcp::{Flags, Segment};

/// The largest window that can be offered, bytes (RFC 7323 2.3). A FIN that is farther ahead than
/// that of what the other side has acknowledged is nobody's.
const WINDOW_MAX: u32 = (u16::MAX as u32) << 14;

impl Flow {
    /// What is known of a side, [`CLIENT`] or [`TARGET`], after this segment from it, as it came
    /// in, at `clock_s`.
    #[must_use]
    pub const fn seen_after(&self, side: usize, segment: &Segment, clock_s: u32) -> Seen {
        if side == CLIENT {
            self.seen[CLIENT].after(self.seen[TARGET], 0, segment, clock_s)
        } else {
            self.seen[TARGET].after(self.seen[CLIENT], self.seq_delta, segment, clock_s)
        }
    }
}

impl Seen {
    /// What is known of this side after a segment from it. `other` is what is known of the other
    /// side, and `shift` what is added to this side's sequence numbers for it.
    #[inline(always)]
    #[must_use]
    pub const fn after(self, other: Self, shift: u32, segment: &Segment, clock_s: u32) -> Self {
        let mut seen = self;
        seen.at_s = clock_s;
        let expected = other.acked.wrapping_sub(shift);
        let known = other.marks & MARK_ACKED != 0;
        if segment.flags.has(Flags::RST) {
            // RFC 5961 3.2. A side that has not acknowledged everything yet may expect another
            // number; whether the connection has ended has to be asked for then.
            let ahead = segment.seq.wrapping_sub(expected);
            if known && ahead == 0 {
                seen.marks |= MARK_RST;
            } else if known && ahead <= WINDOW_MAX {
                seen.marks |= MARK_RST_LIKELY;
            }
            return seen;
        }
        seen.marks &= !MARK_RST_LIKELY;
        if segment.flags.has(Flags::ACK) {
            let ahead = segment.ack.wrapping_sub(self.acked) as i32;
            if self.marks & MARK_ACKED == 0 || ahead > 0 {
                seen.acked = segment.ack;
                seen.marks |= MARK_ACKED;
            }
        }
        if segment.flags.has(Flags::FIN) {
            let fin = segment
                .seq
                .wrapping_add(segment.payload_len as u32)
                .wrapping_add(1);
            let ahead = fin.wrapping_sub(expected);
            if !known || ahead > 0 && ahead <= WINDOW_MAX {
                seen.fin = fin;
                seen.marks |= MARK_FIN;
            }
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{splice::flow::FlowState, splice::flow::STATE_OPEN, tuple::Tuple};

    const DELTA: u32 = 0x4000_0000;

    fn segment(flags: Flags, seq: u32, ack: u32, payload_len: usize) -> Segment {
        Segment {
            tuple: Tuple {
                src: Default::default(),
                dst: Default::default(),
                src_port: 0,
                dst_port: 0,
            },
            seq,
            ack,
            flags,
            l4: 0,
            option_words: 0,
            payload_len,
        }
    }

    /// A connection on which the client is at 1000 and the target at 5000, in its own numbering.
    fn open() -> Flow {
        let mut flow = Flow {
            state: STATE_OPEN,
            seq_delta: DELTA,
            ..Flow::default()
        };
        hear(
            &mut flow,
            CLIENT,
            segment(Flags::ACK, 1000, 5000 + DELTA, 0),
        );
        hear(&mut flow, TARGET, segment(Flags::ACK, 5000, 1000, 0));
        flow
    }

    fn hear(flow: &mut Flow, side: usize, segment: Segment) {
        flow.seen[side] = flow.seen_after(side, &segment, 7);
    }

    #[test]
    fn a_connection_closes_as_its_sides_say() {
        let fin = Flags::ACK.with(Flags::FIN);
        let mut flow = open();
        assert_eq!(flow.tcp_state(), FlowState::Established);
        assert_eq!((flow.seen[CLIENT].at_s, flow.seen[TARGET].at_s), (7, 7));
        hear(&mut flow, CLIENT, segment(fin, 1000, 5000 + DELTA, 10));
        assert_eq!(flow.tcp_state(), FlowState::ClientClosed);
        hear(&mut flow, TARGET, segment(Flags::ACK, 5000, 1011, 100));
        hear(&mut flow, TARGET, segment(fin, 5100, 1011, 0));
        assert_eq!(flow.tcp_state(), FlowState::Closing);
        hear(
            &mut flow,
            CLIENT,
            segment(Flags::ACK, 1011, 5100 + DELTA, 0),
        );
        assert_eq!(flow.tcp_state(), FlowState::Closing);
        hear(
            &mut flow,
            CLIENT,
            segment(Flags::ACK, 1011, 5101 + DELTA, 0),
        );
        assert_eq!(flow.tcp_state(), FlowState::TimeWait);
        // The last FIN once more, because its acknowledgement was late.
        hear(&mut flow, TARGET, segment(fin, 5100, 1011, 0));
        assert_eq!(flow.tcp_state(), FlowState::TimeWait);
    }

    #[test]
    fn an_acknowledgement_never_goes_back() {
        let mut flow = open();
        hear(&mut flow, TARGET, segment(Flags::ACK, 5000, 999, 0));
        assert_eq!(flow.seen[TARGET].acked, 1000);
        hear(&mut flow, TARGET, segment(Flags::ACK, 5000, 1001, 0));
        assert_eq!(flow.seen[TARGET].acked, 1001);
        hear(&mut flow, TARGET, segment(Flags::PSH, 5000, 2000, 0));
        assert_eq!(flow.seen[TARGET].acked, 1001, "without ACK");
    }

    #[test]
    fn only_the_exact_rst_ends_a_connection() {
        for (seq, closed) in [(999, false), (1001, false), (1000, true)] {
            let mut flow = open();
            hear(&mut flow, CLIENT, segment(Flags::RST, seq, 0, 0));
            assert_eq!(flow.tcp_state() == FlowState::Closed, closed, "{seq}");
        }
        for (seq, closed) in [(5000 + DELTA, false), (5000, true)] {
            let mut flow = open();
            let rst = Flags::RST.with(Flags::ACK);
            hear(&mut flow, TARGET, segment(rst, seq, 0, 0));
            assert_eq!(flow.tcp_state() == FlowState::Closed, closed, "{seq}");
            assert_eq!(flow.seen[TARGET].acked, 1000, "a RST acknowledges nothing");
        }
        let mut flow = open();
        flow.seen[TARGET].marks = 0;
        hear(&mut flow, CLIENT, segment(Flags::RST, 1000, 0, 0));
        assert_ne!(
            flow.tcp_state(),
            FlowState::Closed,
            "nothing to compare with"
        );
    }

    #[test]
    fn a_rst_behind_data_is_likely_until_its_sender_says_more() {
        let cases = [
            (999, false),
            (1000, false),
            (1001, true),
            (1000 + WINDOW_MAX, true),
            (1001 + WINDOW_MAX, false),
        ];
        for (seq, likely) in cases {
            let mut flow = open();
            hear(&mut flow, CLIENT, segment(Flags::RST, seq, 0, 0));
            let marks = flow.seen[CLIENT].marks;
            assert_eq!(marks & MARK_RST_LIKELY != 0, likely, "{seq}");
            hear(&mut flow, TARGET, segment(Flags::ACK, 5000, 1000, 0));
            assert_eq!(flow.seen[CLIENT].marks, marks, "of the other side");
            let ack = segment(Flags::ACK, 1000, 5000 + DELTA, 0);
            hear(&mut flow, CLIENT, ack);
            assert_eq!(flow.seen[CLIENT].marks & MARK_RST_LIKELY, 0);
        }
    }

    #[test]
    fn a_fin_that_nobody_can_expect_is_none() {
        let fin = Flags::ACK.with(Flags::FIN);
        let cases = [
            (999, false),
            (1000, true),
            (1000 + WINDOW_MAX - 1, true),
            (1000 + WINDOW_MAX, false),
            (1000 + (1 << 31), false),
        ];
        for (seq, noted) in cases {
            let mut flow = open();
            hear(&mut flow, CLIENT, segment(fin, seq, 5000 + DELTA, 0));
            assert_eq!(flow.tcp_state() == FlowState::ClientClosed, noted, "{seq}");
        }
    }
}
