//! Segments that the engine sends, and their frames.

use xdp_common::wire::checksum::Sum;
use xdp_common::{
    cookie::Family,
    splice::flow::Hop,
    tuple::Tuple,
    wire::{
        eth::{ETH_P_IP, ETH_P_IPV6, EthHeader, VlanTag},
        ipv4::Ipv4Header,
        ipv6::Ipv6Header,
        tcp::{self, Flags, HEADER_LEN},
        tcp_options::{ANSWER_WORDS_MAX, AnswerWords, TcpOptions},
    },
};
use zerocopy::{Immutable, IntoBytes, big_endian::U16};

/// Room for every frame: Ethernet, two VLAN tags, IPv6, TCP and the options of a handshake.
pub const FRAME_MAX: usize = 128;

/// Shortest Ethernet frame without its check sequence (IEEE 802.3 3.2.8).
const FRAME_MIN: usize = 60;

const _: () = assert!(
    size_of::<EthHeader>()
        + 2 * size_of::<VlanTag>()
        + size_of::<Ipv6Header>()
        + HEADER_LEN
        + ANSWER_WORDS_MAX * 4
        <= FRAME_MAX
);

/// A segment without payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Layer 2: where it leaves, and to whom.
    pub hop: Hop,
    /// The network protocol.
    pub family: Family,
    /// Addresses and ports; `src` is ours.
    pub tuple: Tuple,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number; 0 without ACK.
    pub ack: u32,
    /// Control bits.
    pub flags: Flags,
    /// Window, as it stands in the header.
    pub window: u16,
    /// Options.
    pub options: TcpOptions,
}

impl Outgoing {
    /// Writes the frame to the front of `frame`, with all checksums; its length, bytes.
    pub fn emit(&self, frame: &mut [u8; FRAME_MAX]) -> usize {
        let words = self.options.word_count();
        let tcp_len = HEADER_LEN + words * 4;
        let mut writer = Writer { frame, at: 0 };
        self.emit_layer_2(&mut writer);
        self.emit_layer_3(&mut writer, tcp_len);
        let mut header = tcp::header(
            self.tuple.src_port,
            self.tuple.dst_port,
            self.seq,
            self.ack,
            self.flags,
            words,
            self.window,
        );
        let options: AnswerWords = self.options.emit();
        let sum = options
            .iter()
            .fold(Sum::default().with(header), |sum, word| {
                sum.with_word(*word)
            });
        header.checksum = tcp::pseudo_header(self.family, self.tuple.src, self.tuple.dst, tcp_len)
            .with_sum(sum)
            .checksum();
        writer.put(&header);
        for word in &options[..words] {
            writer.put(word);
        }
        writer.pad()
    }

    fn emit_layer_2(&self, writer: &mut Writer<'_>) {
        let ip_type = match self.family {
            Family::V4 => ETH_P_IP,
            Family::V6 => ETH_P_IPV6,
        };
        let tags = self.hop.tags.iter().filter(|tag| **tag != 0);
        // Each EtherType announces what follows it.
        let mut types = tags
            .clone()
            .map(|tag| (tag >> 16) as u16)
            .chain([ip_type])
            .map(U16::new);
        let mut ether_type = || types.next().unwrap_or(U16::new(ip_type));
        writer.put(&EthHeader {
            dst: self.hop.dst_mac,
            src: self.hop.src_mac,
            ether_type: ether_type(),
        });
        for tag in tags {
            writer.put(&VlanTag {
                tci: U16::new(*tag as u16),
                ether_type: ether_type(),
            });
        }
    }

    fn emit_layer_3(&self, writer: &mut Writer<'_>, tcp_len: usize) {
        let Tuple { src, dst, .. } = self.tuple;
        match self.family {
            Family::V4 => {
                let [src, dst] = [src, dst].map(|addr| addr.v4_word().to_le_bytes());
                let total_len = size_of::<Ipv4Header>() + tcp_len;
                writer.put(&Ipv4Header::tcp(src, dst, total_len as u16));
            }
            Family::V6 => {
                let [src, dst] =
                    [src, dst].map(|addr| [addr.hi.to_le_bytes(), addr.lo.to_le_bytes()]);
                writer.put(&Ipv6Header::tcp(src, dst, tcp_len as u16));
            }
        }
    }
}

/// Writes one thing behind the other. [`FRAME_MAX`] is room for all that is written.
struct Writer<'a> {
    frame: &'a mut [u8; FRAME_MAX],
    at: usize,
}

impl Writer<'_> {
    fn put<T: IntoBytes + Immutable>(&mut self, value: &T) {
        let bytes = value.as_bytes();
        self.frame[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    /// Fills the frame up to its least length; the length.
    fn pad(self) -> usize {
        if self.at < FRAME_MIN {
            self.frame[self.at..FRAME_MIN].fill(0);
        }
        self.at.max(FRAME_MIN)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use xdp_common::wire::{tcp::Kind, tcp_options::Timestamps};

    use super::*;
    use crate::engine::handshake::received::{Received, Unreadable};

    fn segment(family: Family, tags: [u32; 2], options: TcpOptions) -> Outgoing {
        let [src, dst] = match family {
            Family::V4 => ["192.0.2.1", "198.51.100.2"],
            Family::V6 => ["2001:db8::1", "2001:db8::2"],
        };
        let addr = |text: &str| text.parse::<IpAddr>().expect("an address").into();
        Outgoing {
            hop: Hop {
                ifindex: 7,
                tags,
                dst_mac: [2, 0, 0, 0, 0, 1],
                src_mac: [2, 0, 0, 0, 0, 2],
                confirmed_s: 0,
            },
            family,
            tuple: Tuple {
                src: addr(src),
                dst: addr(dst),
                src_port: 40_001,
                dst_port: 443,
            },
            seq: 0xffff_fffe,
            ack: 3,
            flags: Flags::SYN.with(Flags::ACK),
            window: 65_000,
            options,
        }
    }

    fn every_combination() -> Vec<Outgoing> {
        let mut all = Vec::new();
        for bits in 0..16 {
            let has = |bit: u8| bits >> bit & 1 == 1;
            let options = TcpOptions {
                mss: has(0).then_some(1460),
                window_scale: has(1).then_some(14),
                sack: has(2),
                timestamps: has(3).then_some(Timestamps {
                    value: 0x0102_0304,
                    echo: u32::MAX,
                }),
            };
            for family in [Family::V4, Family::V6] {
                for tags in [[0, 0], [0x8100_0005, 0], [0x88a8_0007, 0x8100_0fff]] {
                    all.push(segment(family, tags, options));
                }
            }
        }
        all
    }

    #[test]
    fn what_is_emitted_is_received_the_other_way_round() {
        for sent in every_combination() {
            let mut frame = [0xa5; FRAME_MAX];
            let len = sent.emit(&mut frame);
            assert!(len >= FRAME_MIN, "{len} bytes: {sent:?}");
            let received = Received::parse(&frame[..len], 7);
            let expected = Received {
                hop: Hop {
                    dst_mac: sent.hop.src_mac,
                    src_mac: sent.hop.dst_mac,
                    ..sent.hop
                },
                family: sent.family,
                tuple: sent.tuple,
                kind: Kind::SynAck,
                seq: sent.seq,
                ack: sent.ack,
                flags: sent.flags,
                window: sent.window,
                options: sent.options,
            };
            assert_eq!(received, Ok(expected));
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_behind_layer_2_is_noticed_or_changes_nothing_that_is_read() {
        for sent in every_combination() {
            let mut frame = [0; FRAME_MAX];
            let len = sent.emit(&mut frame);
            let intact = Received::parse(&frame[..len], 7).expect("intact");
            let l3 = 14 + 4 * sent.hop.tags.iter().filter(|tag| **tag != 0).count();
            for bit in l3 * 8..len * 8 {
                frame[bit / 8] ^= 1 << (bit % 8);
                if let Ok(received) = Received::parse(&frame[..len], 7) {
                    assert_eq!(received, intact, "bit {bit} of {sent:?}");
                }
                frame[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn frames_that_are_cut_short_are_unreadable() {
        let mut frame = [0; FRAME_MAX];
        let len = segment(Family::V6, [0x8100_0001, 0], TcpOptions::default()).emit(&mut frame);
        for len in 0..len {
            let cut = Received::parse(&frame[..len], 7);
            assert_eq!(cut, Err(Unreadable::Header), "{len} bytes");
        }
    }

    #[test]
    fn no_stack_sends_syn_and_fin() {
        let mut sent = segment(Family::V4, [0, 0], TcpOptions::default());
        sent.flags = Flags::SYN.with(Flags::FIN);
        let mut frame = [0; FRAME_MAX];
        let len = sent.emit(&mut frame);
        assert_eq!(Received::parse(&frame[..len], 7), Err(Unreadable::Flags));
    }
}
