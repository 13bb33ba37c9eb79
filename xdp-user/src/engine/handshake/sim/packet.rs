//! Segments on their way. Payload is not carried; where it is from is.

use xdp_common::{
    cookie::Family,
    splice::{
        flow::Hop,
        translate::{self, Rewrite},
    },
    tuple::Tuple,
    wire::{
        eth::EthHeader,
        ipv4::Ipv4Header,
        tcp::{Flags, Segment},
        tcp_options::{TcpOptions, Timestamps},
    },
};

use crate::engine::handshake::{
    outgoing::{FRAME_MAX, Outgoing},
    received::Received,
};

/// One segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    /// The connection that it belongs to, as far as that can be told.
    pub(super) connection: Option<u32>,
    pub(super) tuple: Tuple,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: Flags,
    pub(super) window: u16,
    pub(super) options: TcpOptions,
    /// Bytes of payload.
    pub(super) len: u32,
    /// Where in its sender's stream they are.
    pub(super) offset: u32,
}

/// Everybody is behind the same neighbour here.
pub(super) const HOP: Hop = Hop {
    ifindex: 1,
    tags: [0; 2],
    dst_mac: [2, 0, 0, 0, 0, 1],
    src_mac: [2, 0, 0, 0, 0, 2],
    confirmed_s: 0,
};

impl Packet {
    pub(super) fn of(outgoing: &Outgoing, connection: Option<u32>) -> Self {
        Self {
            connection,
            tuple: outgoing.tuple,
            seq: outgoing.seq,
            ack: outgoing.ack,
            flags: outgoing.flags,
            window: outgoing.window,
            options: outgoing.options,
            len: 0,
            offset: 0,
        }
    }

    pub(super) const fn has(&self, flags: Flags) -> bool {
        self.flags.has(flags)
    }

    pub(super) const fn is_syn(&self) -> bool {
        self.has(Flags::SYN) && !self.has(Flags::ACK)
    }

    /// The sequence numbers that it takes (RFC 9293 3.4).
    pub(super) fn sequence_len(&self) -> u32 {
        self.len + u32::from(self.has(Flags::SYN)) + u32::from(self.has(Flags::FIN))
    }

    pub(super) fn segment(&self) -> Segment {
        Segment {
            tuple: self.tuple,
            seq: self.seq,
            ack: self.ack,
            flags: self.flags,
            l4: size_of::<EthHeader>() + size_of::<Ipv4Header>(),
            option_words: self.options.word_count(),
            payload_len: self.len as usize,
        }
    }

    pub(super) fn received(&self) -> Received {
        Received {
            hop: HOP,
            family: Family::V4,
            tuple: self.tuple,
            kind: self.segment().kind().expect("flags that a stack sends"),
            seq: self.seq,
            ack: self.ack,
            flags: self.flags,
            window: self.window,
            options: self.options,
        }
    }

    /// What the data path makes of it, in a frame, as it does.
    pub(super) fn translated(&self, rewrite: &Rewrite) -> Self {
        let frame = Outgoing {
            hop: HOP,
            family: Family::V4,
            tuple: self.tuple,
            seq: self.seq,
            ack: self.ack,
            flags: self.flags,
            window: self.window,
            options: self.options,
        };
        let mut bytes = [0; FRAME_MAX];
        let len = frame.emit(&mut bytes);
        let frame = &mut bytes[..len];
        let segment = Segment {
            payload_len: 0,
            ..self.segment()
        };
        translate::segment(frame, Family::V4, size_of::<EthHeader>(), &segment, rewrite)
            .expect("a whole frame");
        let there = Received::parse(frame, HOP.ifindex).expect("translated well");
        Self {
            tuple: there.tuple,
            seq: there.seq,
            ack: there.ack,
            window: there.window,
            options: there.options,
            ..*self
        }
    }
}

/// A bare segment's options.
pub(super) const fn timestamps(timestamps: Option<Timestamps>) -> TcpOptions {
    TcpOptions {
        mss: None,
        window_scale: None,
        sack: false,
        timestamps,
    }
}
