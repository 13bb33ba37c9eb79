//! Segments that the engine receives.

use xdp_common::{
    cookie::Family,
    splice::flow::Hop,
    tuple::Tuple,
    wire::{
        Datagram, Fragment, Frame,
        checksum::Sum,
        eth::{self, ETH_P_IP, ETH_P_IPV6},
        ipv4, ipv6,
        tcp::{self, Flags, Kind, Segment, TcpHeader},
        tcp_options::{self, TcpOptions},
    },
};

labels! {
    /// Why a frame is nothing for the engine. The data path hands over none of these, unless they
    /// were corrupted.
    Unreadable {
        /// No TCP over IPv4 or IPv6, or headers that contradict each other.
        Header = "header",
        /// A fragment.
        Fragment = "fragment",
        /// Control bits that no stack sends.
        Flags = "flags",
        /// The TCP checksum is wrong.
        Checksum = "checksum",
    }
}

/// A TCP segment as the engine sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The way back to whoever sent the frame.
    pub hop: Hop,
    /// The network protocol.
    pub family: Family,
    /// Addresses and ports; `src` is the sender.
    pub tuple: Tuple,
    /// What kind of segment it is.
    pub kind: Kind,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number; meaningless without ACK.
    pub ack: u32,
    /// Control bits.
    pub flags: Flags,
    /// Window, as it stands in the header.
    pub window: u16,
    /// Options.
    pub options: TcpOptions,
}

impl Received {
    /// Reads a frame that came in on the interface `ifindex`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(frame: &[u8], ifindex: u32) -> Result<Self, Unreadable> {
        let (ether_type, l3) = eth::parse(frame).ok_or(Unreadable::Header)?;
        let (family, datagram) = match ether_type {
            ETH_P_IP => (Family::V4, ipv4::parse(frame, l3)),
            ETH_P_IPV6 => (Family::V6, ipv6::parse_whole(frame, l3)),
            _ => return Err(Unreadable::Header),
        };
        let datagram = datagram.map_err(|_| Unreadable::Header)?;
        if datagram.fragment != Fragment::Whole {
            return Err(Unreadable::Fragment);
        }
        let header: &TcpHeader = Frame::get(frame, datagram.l4).ok_or(Unreadable::Header)?;
        let segment = Segment::new(header, &datagram).ok_or(Unreadable::Header)?;
        if !checksum_fits(frame, family, &datagram, header.checksum) {
            return Err(Unreadable::Checksum);
        }
        Ok(Self {
            hop: Hop::back(frame, l3, ifindex).ok_or(Unreadable::Header)?,
            family,
            tuple: segment.tuple,
            kind: segment.kind().map_err(|_| Unreadable::Flags)?,
            seq: segment.seq,
            ack: segment.ack,
            flags: segment.flags,
            window: header.window.get(),
            options: tcp_options::parse(frame, &segment),
        })
    }
}

/// Whether nothing was corrupted on the way. The data path does not look, because it forwards
/// segments to whoever will; the engine acts on them.
fn checksum_fits(frame: &[u8], family: Family, datagram: &Datagram, field: [u8; 2]) -> bool {
    let segment = &frame[datagram.l4..datagram.end];
    let pseudo = tcp::pseudo_header(family, datagram.src, datagram.dst, segment.len());
    let mut words = segment.chunks_exact(4);
    let sum = words
        .by_ref()
        .fold(Sum::default(), |sum, word| sum.with_word(word_of(word)));
    let sum = sum.with_word(word_of(words.remainder()));
    tcp::checksum_fits(pseudo, sum, field)
}

/// Up to four bytes as a word in the machine's order, zeros behind them.
fn word_of(bytes: &[u8]) -> u32 {
    let mut word = [0; 4];
    word[..bytes.len()].copy_from_slice(bytes);
    u32::from_ne_bytes(word)
}
