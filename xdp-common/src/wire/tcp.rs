//! TCP segments (RFC 9293 3.1).

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    big_endian::{U16, U32},
};

use super::{Datagram, IPPROTO_TCP, checksum::Sum};
use crate::{
    cookie::Family,
    tuple::{Addr, Tuple},
    verdict::Verdict,
};

/// A TCP header without its options.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TcpHeader {
    /// Source port.
    pub src_port: U16,
    /// Destination port.
    pub dst_port: U16,
    /// Sequence number.
    pub seq: U32,
    /// Acknowledgement number.
    pub ack: U32,
    /// Data offset in words (upper four bits) and control bits.
    pub offset_flags: U16,
    /// Window, unscaled.
    pub window: U16,
    /// Checksum, as it is on the wire.
    pub checksum: [u8; 2],
    /// Urgent pointer.
    pub urgent: U16,
}

/// Bytes of a TCP header without options.
pub const HEADER_LEN: usize = size_of::<TcpHeader>();

/// Most words of options: the data offset has four bits.
pub const OPTION_WORDS_MAX: usize = 10;

/// Control bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(u16);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(1);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(1 << 1);
    /// Reset the connection.
    pub const RST: Self = Self(1 << 2);
    /// Push.
    pub const PSH: Self = Self(1 << 3);
    /// The acknowledgement number is valid.
    pub const ACK: Self = Self(1 << 4);
    /// The urgent pointer is valid.
    pub const URG: Self = Self(1 << 5);
    /// ECN echo (RFC 3168).
    pub const ECE: Self = Self(1 << 6);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: Self = Self(1 << 7);

    const SIX: u16 = 0x3f;

    /// Whether all of `flags` are set.
    #[inline(always)]
    pub const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Both together.
    #[inline(always)]
    pub const fn with(self, flags: Self) -> Self {
        Self(self.0 | flags.0)
    }

    /// From bits in the order of the header.
    #[inline(always)]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits & 0xfff)
    }

    /// The bits, in the order of the header.
    pub const fn bits(self) -> u16 {
        self.0
    }
}

/// What a segment is to a data path that keeps no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An initial SYN.
    Syn,
    /// A SYN-ACK.
    SynAck,
    /// A RST, with or without ACK.
    Rst,
    /// Anything else that belongs to a connection: it has ACK and neither SYN nor RST.
    Ack,
}

/// One TCP segment in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Addresses and ports.
    pub tuple: Tuple,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number; meaningless without ACK.
    pub ack: u32,
    /// Control bits.
    pub flags: Flags,
    /// Offset of the TCP header in the frame.
    pub l4: usize,
    /// Words of options, at most [`OPTION_WORDS_MAX`].
    pub option_words: usize,
    /// Bytes of payload.
    pub payload_len: usize,
}

impl Segment {
    /// Reads the header of a datagram that is no later fragment. `None` where the header
    /// contradicts the datagram.
    #[inline(always)]
    pub fn new(tcp: &TcpHeader, datagram: &Datagram) -> Option<Self> {
        let offset_flags = tcp.offset_flags.get();
        let words = (offset_flags >> 12) as usize;
        let payload = datagram.l4 + words * 4;
        if words < HEADER_LEN / 4 || payload > datagram.end {
            return None;
        }
        Some(Self {
            tuple: Tuple {
                src: datagram.src,
                dst: datagram.dst,
                src_port: tcp.src_port.get(),
                dst_port: tcp.dst_port.get(),
            },
            seq: tcp.seq.get(),
            ack: tcp.ack.get(),
            flags: Flags(offset_flags & 0xfff),
            l4: datagram.l4,
            option_words: words - HEADER_LEN / 4,
            payload_len: datagram.end - payload,
        })
    }

    /// Sorts the segment by its control bits; `Err` for combinations no stack sends. PSH, URG and
    /// the ECN bits never decide (RFC 3360 asks middleboxes to leave unknown bits alone).
    #[inline(always)]
    pub const fn kind(&self) -> Result<Kind, Verdict> {
        let flags = self.flags;
        if flags.has(Flags::SYN) {
            return if flags.has(Flags::FIN) {
                Err(Verdict::FlagsSynFin)
            } else if flags.has(Flags::RST) {
                Err(Verdict::FlagsSynRst)
            } else if flags.has(Flags::ACK) {
                Ok(Kind::SynAck)
            } else {
                Ok(Kind::Syn)
            };
        }
        if flags.has(Flags::RST) {
            Ok(Kind::Rst)
        } else if flags.has(Flags::ACK) {
            Ok(Kind::Ack)
        } else if flags.0 & Flags::SIX == 0 {
            Err(Verdict::FlagsNull)
        } else {
            Err(Verdict::FlagsNoAck)
        }
    }
}

/// The pseudo-header of a segment of `len` bytes (RFC 9293 3.1, RFC 8200 8.1).
#[inline(always)]
pub fn pseudo_header(family: Family, src: Addr, dst: Addr, len: usize) -> Sum {
    let sum = Sum::default()
        .with_be16(u16::from(IPPROTO_TCP))
        .with_be16(len as u16);
    match family {
        // An `Addr` is little-endian words; `to_le` undoes that into wire bytes.
        Family::V4 => sum
            .with_word(src.v4_word().to_le())
            .with_word(dst.v4_word().to_le()),
        Family::V6 => [src.hi, src.lo, dst.hi, dst.lo]
            .into_iter()
            .fold(sum, |sum, half| {
                let half = half.to_le();
                sum.with_word(half as u32).with_word((half >> 32) as u32)
            }),
    }
}

/// Whether a segment's checksum field fits. `pseudo` is its pseudo-header's sum and `segment` that
/// of the whole segment, the field included.
///
/// A sender on the same machine (a container or a guest behind a virtual link) leaves the sum to
/// hardware that does not exist there: the field then holds the bare pseudo-header's sum
/// (`CHECKSUM_PARTIAL`), and nothing was on a wire that could have corrupted it.
#[inline(always)]
pub fn checksum_fits(pseudo: Sum, segment: Sum, field: [u8; 2]) -> bool {
    pseudo.with_sum(segment).folded() == [0xff; 2] || pseudo.folded() == field
}

/// The answer's header, without its checksum.
#[inline(always)]
pub fn header(
    src_port: u16,
    dst_port: u16,
    seq: u32,
    ack: u32,
    flags: Flags,
    option_words: usize,
    window: u16,
) -> TcpHeader {
    let words = (HEADER_LEN / 4 + option_words) as u16;
    TcpHeader {
        src_port: U16::new(src_port),
        dst_port: U16::new(dst_port),
        seq: U32::new(seq),
        ack: U32::new(ack),
        offset_flags: U16::new(words << 12 | flags.bits()),
        window: U16::new(window),
        checksum: [0; 2],
        urgent: U16::new(0),
    }
}
