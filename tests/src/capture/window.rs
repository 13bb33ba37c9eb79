//! Which segments of a recording a receiver could not take as in its window (RFC 9293 3.10.7.4).
use std::{collections::HashMap, net::SocketAddr};

use super::Segment;
use crate::abi::tcp_flag::{ACK, FIN, RST, SYN};

/// What one end of a connection has told so far.
#[derive(Clone, Copy, Debug, Default)]
struct Sender {
    /// The sequence number behind what it has sent.
    next: Option<u32>,
    /// The highest acknowledgement it has sent.
    acked: Option<u32>,
    /// The end of the window that it has offered.
    edge: Option<u32>,
    /// The largest window it has offered.
    window_max: u32,
    /// Window scale of its SYN, if it had one.
    scale: Option<u8>,
}

/// Segments that lie beyond the window that their receiver had offered, that lie further behind it
/// than any repetition can, or that acknowledge what was never sent. The recording must be one of
/// the receiver's own interface: elsewhere, windows and segments may cross.
#[must_use]
pub fn out_of_window(segments: &[Segment]) -> Vec<Segment> {
    let mut ends: HashMap<(SocketAddr, SocketAddr), Sender> = HashMap::new();
    let mut outside = Vec::new();
    for segment in segments {
        let key = (segment.from, segment.to);
        if segment.flags & (SYN | ACK) == SYN {
            // A new connection, or its first SYN once more.
            let known = ends.get(&key).copied().unwrap_or_default();
            if known.next != Some(segment.seq.wrapping_add(1)) {
                ends.remove(&(segment.to, segment.from));
                ends.remove(&key);
            }
        }
        let peer = ends.get(&(segment.to, segment.from)).copied();
        let own = ends.entry(key).or_default();
        // A RST that answers no connection tells nothing, and is judged by the receiver's own rules.
        if segment.flags & RST != 0 {
            continue;
        }
        if !acceptable(segment, peer.unwrap_or_default()) {
            outside.push(*segment);
        }
        own.tell(segment, peer.unwrap_or_default());
    }
    outside
}

fn length(segment: &Segment) -> u32 {
    segment.length + u32::from(segment.flags & SYN != 0) + u32::from(segment.flags & FIN != 0)
}

/// Whether `a` is behind `b` (RFC 9293 3.4).
fn behind(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

fn acceptable(segment: &Segment, receiver: Sender) -> bool {
    let end = segment.seq.wrapping_add(length(segment));
    let beyond = receiver.edge.is_some_and(|edge| {
        // Without data it may lie at the edge, and a byte is sent into a closed window to probe it.
        behind(end, edge.wrapping_add(u32::from(segment.length == 1)))
            && segment.flags & (SYN | FIN) == 0
    });
    let ancient = receiver.acked.is_some_and(|acked| {
        let oldest = acked.wrapping_sub(receiver.window_max.max(1 << 16));
        segment.flags & SYN == 0 && behind(oldest, segment.seq)
    });
    let unsent =
        segment.flags & ACK != 0 && receiver.next.is_some_and(|next| behind(segment.ack, next));
    !(beyond || ancient || unsent)
}

impl Sender {
    fn tell(&mut self, segment: &Segment, peer: Self) {
        let next = segment.seq.wrapping_add(length(segment));
        if self.next.is_none_or(|known| behind(next, known)) {
            self.next = Some(next);
        }
        if segment.flags & SYN != 0 {
            self.scale = segment.scale;
        }
        if segment.flags & ACK == 0 {
            return;
        }
        // A SYN's window is never scaled, and others only if both ends have said so (RFC 7323 2.2).
        let scale = match (segment.flags & SYN, self.scale, peer.scale) {
            (0, Some(scale), Some(_)) => scale,
            _ => 0,
        };
        let window = u32::from(segment.window) << scale;
        let edge = segment.ack.wrapping_add(window);
        self.window_max = self.window_max.max(window);
        if self.acked.is_none_or(|known| behind(segment.ack, known)) {
            self.acked = Some(segment.ack);
        }
        if self.edge.is_none_or(|known| behind(edge, known)) {
            self.edge = Some(edge);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection whose server has offered 1,000 bytes from 101 on, and whose client 64 KiB.
    fn opened() -> Vec<Segment> {
        let client = segment(true, SYN, 100, 0, 65_535, 0);
        let server = segment(false, SYN | ACK, 500, 101, 1000, 0);
        vec![client, server, segment(true, ACK, 101, 501, 65_535, 0)]
    }

    fn segment(client: bool, flags: u8, seq: u32, ack: u32, window: u16, length: u32) -> Segment {
        let ends: [SocketAddr; 2] = ["10.0.0.1:1", "10.0.0.2:2"].map(|end| end.parse().unwrap());
        let [from, to] = if client { ends } else { [ends[1], ends[0]] };
        Segment {
            frame: 0,
            from,
            to,
            seq,
            ack,
            flags,
            window,
            length,
            scale: None,
        }
    }

    fn judge(last: Segment) -> bool {
        let mut segments = opened();
        segments.push(last);
        out_of_window(&segments).is_empty()
    }

    #[test]
    fn what_fills_the_window_is_inside_and_a_byte_more_is_not() {
        assert!(judge(segment(true, ACK, 101, 501, 65_535, 1000)));
        assert!(!judge(segment(true, ACK, 101, 501, 65_535, 1001)));
        assert!(judge(segment(true, ACK, 1101, 501, 65_535, 1)), "a probe");
    }

    #[test]
    fn an_acknowledgement_of_what_was_not_sent_is_outside() {
        assert!(judge(segment(true, ACK, 101, 501, 65_535, 0)));
        assert!(!judge(segment(true, ACK, 101, 502, 65_535, 0)));
    }

    #[test]
    fn what_is_far_behind_is_outside() {
        assert!(judge(segment(true, ACK, 100, 501, 65_535, 0)));
        assert!(!judge(segment(
            true,
            ACK,
            101_u32.wrapping_sub(1 << 17),
            501,
            1,
            0
        )));
    }

    #[test]
    fn windows_are_scaled_when_both_ends_scale() {
        let mut segments = opened();
        for segment in &mut segments {
            segment.scale = (segment.flags & SYN != 0).then_some(4);
        }
        segments.push(segment(false, ACK, 501, 101, 1000, 0));
        segments.push(segment(true, ACK, 101, 501, 1, 16_000));
        assert_eq!(out_of_window(&segments), []);
        segments.push(segment(true, ACK, 101, 501, 1, 16_001));
        assert_eq!(out_of_window(&segments).len(), 1);
    }
}
