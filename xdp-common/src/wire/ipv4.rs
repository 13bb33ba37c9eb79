//! IPv4 (RFC 791).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, big_endian::U16};

use super::{Datagram, Fragment, Frame, IPPROTO_TCP, NotDatagram, checksum::Sum};
use crate::{tuple::Addr, verdict::Verdict};

/// An IPv4 header without its options.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv4Header {
    /// Version (4) and header length in words.
    pub version_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Length of the datagram, header included, bytes.
    pub total_len: U16,
    /// Identification.
    pub id: U16,
    /// Flags and fragment offset in units of eight bytes.
    pub fragment: U16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol number.
    pub protocol: u8,
    /// Header checksum, as it is on the wire.
    pub checksum: [u8; 2],
    /// Source address.
    pub src: [u8; 4],
    /// Destination address.
    pub dst: [u8; 4],
}

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Default time to live (RFC 1700; the Linux default too).
pub const TTL: u8 = 64;

/// Judges the IPv4 header at `l3`.
///
/// The header checksum is left to the kernel: what a SYN's answer depends on (addresses, protocol,
/// length) is covered by the TCP checksum's pseudo-header.
#[inline(always)]
pub fn parse(frame: &(impl Frame + ?Sized), l3: usize) -> Result<Datagram, NotDatagram> {
    let ip = frame
        .get::<Ipv4Header>(l3)
        .ok_or(NotDatagram::Pass(Verdict::NotIp))?;
    if ip.protocol != IPPROTO_TCP {
        return Err(NotDatagram::Pass(Verdict::NotTcp));
    }
    let dst = Addr::v4(ip.dst);
    let malformed = Err(NotDatagram::Malformed(Verdict::IpHeader, dst));
    let total_len = ip.total_len.get() as usize;
    let Some(header_len) = ip.header_len().filter(|len| *len <= total_len) else {
        return malformed;
    };
    let end = l3 + total_len;
    if end > frame.len() {
        return malformed;
    }
    let fragment = match ip.fragment.get() & (MORE_FRAGMENTS | FRAGMENT_OFFSET) {
        0 => Fragment::Whole,
        MORE_FRAGMENTS => Fragment::First(u32::from(ip.id.get())),
        _ => Fragment::Later(u32::from(ip.id.get())),
    };
    Ok(Datagram {
        src: Addr::v4(ip.src),
        dst,
        l4: l3 + header_len,
        end,
        fragment,
    })
}

impl Ipv4Header {
    /// Length of the header with its options, bytes. `None` where it says another version, or less
    /// than a header.
    #[inline(always)]
    pub const fn header_len(&self) -> Option<usize> {
        let len = ((self.version_ihl & 0xf) as usize) * 4;
        if self.version_ihl >> 4 == 4 && len >= size_of::<Self>() {
            Some(len)
        } else {
            None
        }
    }

    /// Whether the datagram is not fragmented.
    #[inline(always)]
    pub const fn is_whole(&self) -> bool {
        self.fragment.get() & (MORE_FRAGMENTS | FRAGMENT_OFFSET) == 0
    }

    /// Whether it is not fragmented, or the first fragment.
    #[inline(always)]
    pub const fn is_first(&self) -> bool {
        self.fragment.get() & FRAGMENT_OFFSET == 0
    }

    /// The header of a TCP datagram of `total_len` bytes, without options, with its checksum.
    #[inline(always)]
    pub fn tcp(src: [u8; 4], dst: [u8; 4], total_len: u16) -> Self {
        let mut header = Self {
            version_ihl: 0x45,
            tos: 0,
            total_len: U16::new(total_len),
            // RFC 6864 4.1: an atomic datagram may carry any identification.
            id: U16::new(0),
            fragment: U16::new(DONT_FRAGMENT),
            ttl: TTL,
            protocol: IPPROTO_TCP,
            checksum: [0; 2],
            src,
            dst,
        };
        header.checksum = Sum::default()
            .with_be16(0x4500)
            .with_be16(total_len)
            .with_be16(DONT_FRAGMENT)
            .with_be16(u16::from_be_bytes([TTL, IPPROTO_TCP]))
            .with(src)
            .with(dst)
            .checksum();
        header
    }
}
