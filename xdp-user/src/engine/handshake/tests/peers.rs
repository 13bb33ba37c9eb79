//! A client that has its cookie, and what targets answer.

use xdp_common::{
    cookie::{self, Data, Family, Offer},
    splice::flow::Hop,
    tuple::Tuple,
    wire::{
        tcp::{Flags, Kind},
        tcp_options::{TcpOptions, Timestamps},
    },
};

use super::world::{KEYS, TARGET_HOP, addr, service_end};
use crate::engine::handshake::{outgoing::Outgoing, received::Received};

/// A client that has received a cookie.
#[derive(Clone, Copy)]
pub(super) struct TestClient {
    pub(super) family: Family,
    pub(super) tuple: Tuple,
    pub(super) isn: u32,
    pub(super) offer: Offer,
    pub(super) timestamps: Option<Timestamps>,
    pub(super) window: u16,
}

pub(super) const CLIENT_HOP: Hop = Hop {
    ifindex: 2,
    tags: [0x8100_0007, 0],
    dst_mac: [2, 0, 0, 0, 0, 1],
    src_mac: [2, 0, 0, 0, 0, 2],
    confirmed_s: 0,
};

impl Default for TestClient {
    fn default() -> Self {
        let (dst, dst_port) = service_end(Family::V4);
        Self {
            family: Family::V4,
            tuple: Tuple {
                src: addr("192.0.2.7"),
                dst,
                src_port: 40_000,
                dst_port,
            },
            isn: 0xffff_fff0,
            offer: Offer {
                mss: 1460,
                window_scale: Some(8),
                sack: true,
            },
            timestamps: Some(Timestamps {
                value: 5_000,
                echo: 70_000,
            }),
            window: 251,
        }
    }
}

impl TestClient {
    /// One with this port.
    pub(super) fn at(port: u16) -> Self {
        let mut client = Self::default();
        client.tuple.src_port = port;
        client
    }

    /// One with an IPv6 address.
    pub(super) fn v6() -> Self {
        let mut client = Self {
            family: Family::V6,
            ..Self::default()
        };
        client.tuple.src = addr("2001:db8:7::7");
        client.tuple.dst = service_end(Family::V6).0;
        client.offer.mss = 1440;
        client
    }

    /// The ISN that it was given.
    pub(super) fn cookie(&self) -> u32 {
        let data = Data::new(self.family, self.offer);
        cookie::issue(self.family, KEYS[1], 1, &self.tuple, self.isn, data).isn
    }

    pub(super) fn segment(&self, kind: Kind, flags: Flags, seq: u32, ack: u32) -> Received {
        Received {
            hop: CLIENT_HOP,
            family: self.family,
            tuple: self.tuple,
            kind,
            seq,
            ack,
            flags,
            window: self.window,
            options: TcpOptions {
                timestamps: self.timestamps,
                ..TcpOptions::default()
            },
        }
    }

    /// The ACK of the cookie.
    pub(super) fn ack(&self) -> Received {
        let ack = self.cookie().wrapping_add(1);
        self.segment(Kind::Ack, Flags::ACK, self.isn.wrapping_add(1), ack)
    }

    /// A probe of the zero window, as Linux sends it.
    pub(super) fn probe(&self) -> Received {
        Received {
            seq: self.isn,
            ..self.ack()
        }
    }

    /// A RST with this sequence number.
    pub(super) fn rst(&self, seq: u32) -> Received {
        self.segment(Kind::Rst, Flags::RST, seq, 0)
    }
}

/// The target's initial sequence number.
pub(super) const TARGET_ISN: u32 = 0x8000_0000;

/// What the target's clock says in its SYN-ACK.
pub(super) const TARGET_CLOCK: u32 = 0xffff_0000;

/// An answer of the target to a segment.
pub(super) fn reply(to: &Outgoing, kind: Kind, flags: Flags, seq: u32, ack: u32) -> Received {
    Received {
        hop: Hop {
            dst_mac: TARGET_HOP.src_mac,
            src_mac: TARGET_HOP.dst_mac,
            ..TARGET_HOP
        },
        family: to.family,
        tuple: Tuple {
            src: to.tuple.dst,
            dst: to.tuple.src,
            src_port: to.tuple.dst_port,
            dst_port: to.tuple.src_port,
        },
        kind,
        seq,
        ack,
        flags,
        window: 65_160,
        options: TcpOptions::default(),
    }
}

/// The SYN-ACK of a target that can do all that the SYN asks for.
pub(super) fn syn_ack(syn: &Outgoing) -> Received {
    let flags = Flags::SYN.with(Flags::ACK);
    Received {
        options: TcpOptions {
            mss: Some(1460),
            window_scale: syn.options.window_scale.map(|_| 9),
            sack: syn.options.sack,
            timestamps: syn.options.timestamps.map(|theirs| Timestamps {
                value: TARGET_CLOCK,
                echo: theirs.value,
            }),
        },
        ..reply(
            syn,
            Kind::SynAck,
            flags,
            TARGET_ISN,
            syn.seq.wrapping_add(1),
        )
    }
}

/// The RST of a target where nobody listens.
pub(super) fn refusal(syn: &Outgoing) -> Received {
    let flags = Flags::RST.with(Flags::ACK);
    reply(syn, Kind::Rst, flags, 0, syn.seq.wrapping_add(1))
}
