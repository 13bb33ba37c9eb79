//! ICMP errors (RFC 792, RFC 4443) about TCP segments: which segment one is about.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    big_endian::{U16, U32},
};

use super::{Frame, IPPROTO_TCP, ipv4::Ipv4Header, ipv6::Ipv6Header};
use crate::{
    cookie::Family,
    tuple::{Addr, Tuple},
};

/// Protocol number of ICMP (IANA).
pub const IPPROTO_ICMP: u8 = 1;
/// Protocol number of ICMPv6 (IANA).
pub const IPPROTO_ICMPV6: u8 = 58;

/// An ICMP header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IcmpHeader {
    /// What it is.
    pub kind: u8,
    /// What exactly.
    pub code: u8,
    /// Checksum, as it is on the wire.
    pub checksum: [u8; 2],
    /// What belongs to the type, as the MTU of a next hop.
    pub rest: [u8; 4],
}

/// The start of a TCP header: all that an error has to quote (RFC 792).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TcpStart {
    /// Source port.
    pub src_port: U16,
    /// Destination port.
    pub dst_port: U16,
    /// Sequence number.
    pub seq: U32,
}

/// Types of IPv4: destination unreachable, which includes that a datagram needs fragmentation; time
/// exceeded; parameter problem.
const ERRORS_V4: [u8; 3] = [3, 11, 12];

/// Types of IPv6: destination unreachable, packet too big, time exceeded, parameter problem.
const ERRORS_V6: [u8; 4] = [1, 2, 3, 4];

/// Where an ICMP error quotes the TCP segment that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Offset of the ICMP header in the frame.
    pub icmp: usize,
    /// Offset of the quoted IP header.
    pub l3: usize,
    /// Offset of the quoted TCP header, of which there is a [`TcpStart`] at least.
    pub l4: usize,
    /// Offset of the first byte behind the datagram.
    pub end: usize,
    /// The quoted segment's addresses and ports.
    pub tuple: Tuple,
}

/// Whether the datagram whose IP header is at `l3` is an ICMP message of its family.
#[inline(always)]
pub fn is_icmp(frame: &(impl Frame + ?Sized), family: Family, l3: usize) -> bool {
    match family {
        Family::V4 => frame
            .get::<Ipv4Header>(l3)
            .is_some_and(|ip| ip.protocol == IPPROTO_ICMP),
        Family::V6 => frame
            .get::<Ipv6Header>(l3)
            .is_some_and(|ip| ip.next_header == IPPROTO_ICMPV6),
    }
}

/// The TCP segment that the ICMP error at `l3` is about. `None` for all that is no such error, that
/// is in fragments, that quotes too little, that has or quotes IPv6 extension headers, and that is
/// not for the sender of what it quotes.
#[inline(always)]
pub fn quote(frame: &(impl Frame + ?Sized), family: Family, l3: usize) -> Option<Quote> {
    let (quote, to) = match family {
        Family::V4 => quote_v4(frame, l3)?,
        Family::V6 => quote_v6(frame, l3)?,
    };
    (quote.tuple.src == to).then_some(quote)
}

/// The quote, and whom the error is for.
#[inline(always)]
fn quote_v4(frame: &(impl Frame + ?Sized), l3: usize) -> Option<(Quote, Addr)> {
    let ip = frame.get::<Ipv4Header>(l3)?;
    let header_len = ip.header_len()?;
    let end = l3 + ip.total_len.get() as usize;
    if ip.protocol != IPPROTO_ICMP || !ip.is_whole() || end > frame.len() {
        return None;
    }
    let icmp = l3 + header_len;
    if !ERRORS_V4.contains(&frame.get::<IcmpHeader>(icmp)?.kind) {
        return None;
    }
    let at = icmp + size_of::<IcmpHeader>();
    let quoted = frame.get::<Ipv4Header>(at)?;
    let l4 = at + quoted.header_len()?;
    if quoted.protocol != IPPROTO_TCP || !quoted.is_first() {
        return None;
    }
    let (src, dst) = (Addr::v4(quoted.src), Addr::v4(quoted.dst));
    Some((
        start(frame, [icmp, at, l4, end], src, dst)?,
        Addr::v4(ip.dst),
    ))
}

/// The same for IPv6.
#[inline(always)]
fn quote_v6(frame: &(impl Frame + ?Sized), l3: usize) -> Option<(Quote, Addr)> {
    let ip = frame.get::<Ipv6Header>(l3)?;
    let icmp = l3 + size_of::<Ipv6Header>();
    let end = icmp + ip.payload_len.get() as usize;
    if ip.version_class >> 4 != 6 || ip.next_header != IPPROTO_ICMPV6 || end > frame.len() {
        return None;
    }
    if !ERRORS_V6.contains(&frame.get::<IcmpHeader>(icmp)?.kind) {
        return None;
    }
    let at = icmp + size_of::<IcmpHeader>();
    let quoted = frame.get::<Ipv6Header>(at)?;
    if quoted.version_class >> 4 != 6 || quoted.next_header != IPPROTO_TCP {
        return None;
    }
    let l4 = at + size_of::<Ipv6Header>();
    let src = Addr::v6(quoted.src[0], quoted.src[1]);
    let dst = Addr::v6(quoted.dst[0], quoted.dst[1]);
    let to = Addr::v6(ip.dst[0], ip.dst[1]);
    Some((start(frame, [icmp, at, l4, end], src, dst)?, to))
}

#[inline(always)]
fn start(
    frame: &(impl Frame + ?Sized),
    [icmp, l3, l4, end]: [usize; 4],
    src: Addr,
    dst: Addr,
) -> Option<Quote> {
    let tcp = frame.get::<TcpStart>(l4)?;
    if l4 + size_of::<TcpStart>() > end {
        return None;
    }
    let tuple = Tuple {
        src,
        dst,
        src_port: tcp.src_port.get(),
        dst_port: tcp.dst_port.get(),
    };
    Some(Quote {
        icmp,
        l3,
        l4,
        end,
        tuple,
    })
}
