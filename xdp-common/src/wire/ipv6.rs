//! IPv6 and its extension headers (RFC 8200).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, big_endian::U16};

use super::{Datagram, Fragment, Frame, IPPROTO_TCP, NotDatagram, OFFSET_MASK};
use crate::{tuple::Addr, verdict::Verdict};

/// An IPv6 header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv6Header {
    /// Version (6) and the upper half of the traffic class.
    pub version_class: u8,
    /// The rest of the traffic class, and the flow label.
    pub class_flow: [u8; 3],
    /// Length of what follows this header, bytes.
    pub payload_len: U16,
    /// Protocol number of what follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address, as two halves.
    pub src: [[u8; 8]; 2],
    /// Destination address, as two halves.
    pub dst: [[u8; 8]; 2],
}

/// The start that most extension headers share.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ExtensionHeader {
    next_header: u8,
    /// Units of eight bytes beyond the first eight; of four beyond eight in AH (RFC 4302 2.2).
    len: u8,
}

#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct FragmentHeader {
    next_header: u8,
    reserved: u8,
    offset_flags: U16,
    id: [u8; 4],
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

const FRAGMENT_OFFSET: u16 = 0xfff8;
const MORE_FRAGMENTS: u16 = 1;

/// Extension headers that are followed. RFC 8200 4.1 lists five in front of which TCP may be seen,
/// and allows one of them twice; one more for good measure.
pub const EXTENSIONS_MAX: usize = 7;

/// Default hop limit (the Linux default too).
pub const HOP_LIMIT: u8 = 64;

/// What the IPv6 header says: the datagram, if TCP follows at once, or a chain of extension headers
/// to follow first.
#[derive(Clone, Copy, Debug)]
pub enum Parsed {
    /// TCP.
    Datagram(Datagram),
    /// Extension headers.
    Chain(Chain),
}

/// Judges the IPv6 header at `l3`.
#[inline(always)]
pub fn parse(frame: &(impl Frame + ?Sized), l3: usize) -> Result<Parsed, NotDatagram> {
    let ip = frame
        .get::<Ipv6Header>(l3)
        .ok_or(NotDatagram::Pass(Verdict::NotIp))?;
    let dst = Addr::v6(ip.dst[0], ip.dst[1]);
    let l4 = l3 + size_of::<Ipv6Header>();
    let datagram = Datagram {
        src: Addr::v6(ip.src[0], ip.src[1]),
        dst,
        l4,
        end: l4 + ip.payload_len.get() as usize,
        fragment: Fragment::Whole,
    };
    if ip.version_class >> 4 != 6 || datagram.end > frame.len() {
        return Err(NotDatagram::Malformed(Verdict::IpHeader, dst));
    }
    match ip.next_header {
        IPPROTO_TCP => Ok(Parsed::Datagram(datagram)),
        next if is_extension(next) => Ok(Parsed::Chain(Chain {
            datagram,
            next,
            cut_short: false,
        })),
        _ => Err(NotDatagram::Pass(Verdict::NotTcp)),
    }
}

/// Judges the IPv6 header at `l3` and all that follows it up to TCP.
pub fn parse_whole(frame: &(impl Frame + ?Sized), l3: usize) -> Result<Datagram, NotDatagram> {
    match parse(frame, l3)? {
        Parsed::Datagram(datagram) => Ok(datagram),
        Parsed::Chain(mut chain) => {
            for _ in 0..EXTENSIONS_MAX {
                if !chain.step(frame) {
                    break;
                }
            }
            chain.finish()
        }
    }
}

/// A chain of extension headers, followed header by header.
///
/// It is driven from outside, step by step, because the data path has to loop in the kernel's way.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    /// The datagram; `l4` is where the next header starts.
    datagram: Datagram,
    /// Protocol number of the next header.
    next: u8,
    /// Whether the frame ends within the chain.
    cut_short: bool,
}

impl Chain {
    /// Goes behind the next extension header; `false` if there is none to go behind.
    #[inline(always)]
    pub fn step(&mut self, frame: &(impl Frame + ?Sized)) -> bool {
        if self.next == FRAGMENT {
            return self.step_fragment(frame);
        }
        if !is_extension(self.next) {
            return false;
        }
        let at = self.datagram.l4 & OFFSET_MASK;
        let Some(header) = frame.get::<ExtensionHeader>(at) else {
            self.cut_short = true;
            return false;
        };
        let unit = if self.next == AUTHENTICATION { 4 } else { 8 };
        self.datagram.l4 = at + 8 + header.len as usize * unit;
        self.next = header.next_header;
        true
    }

    #[inline(always)]
    fn step_fragment(&mut self, frame: &(impl Frame + ?Sized)) -> bool {
        let at = self.datagram.l4 & OFFSET_MASK;
        let Some(header) = frame.get::<FragmentHeader>(at) else {
            self.cut_short = true;
            return false;
        };
        let id = u32::from_ne_bytes(header.id);
        let offset_flags = header.offset_flags.get();
        let later = offset_flags & FRAGMENT_OFFSET != 0;
        self.datagram.fragment = match offset_flags & MORE_FRAGMENTS {
            _ if later => Fragment::Later(id),
            // RFC 6946: an atomic fragment is a whole datagram, unless it is itself in a first one.
            0 => self.datagram.fragment,
            _ => Fragment::First(id),
        };
        self.datagram.l4 = at + size_of::<FragmentHeader>();
        self.next = header.next_header;
        !later
    }

    /// What the steps have led to.
    #[inline(always)]
    pub const fn finish(self) -> Result<Datagram, NotDatagram> {
        let later = matches!(self.datagram.fragment, Fragment::Later(_));
        if self.cut_short {
            Err(NotDatagram::Malformed(
                Verdict::Ipv6Extension,
                self.datagram.dst,
            ))
        } else if self.next == IPPROTO_TCP || later && is_extension(self.next) {
            // What a later fragment of an extension header belongs to, only the first one tells.
            Ok(self.datagram)
        } else if is_extension(self.next) {
            Err(NotDatagram::Malformed(
                Verdict::Ipv6Extension,
                self.datagram.dst,
            ))
        } else {
            Err(NotDatagram::Pass(Verdict::NotTcp))
        }
    }
}

const fn is_extension(next: u8) -> bool {
    matches!(
        next,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION
    )
}

impl Ipv6Header {
    /// The header of a TCP datagram with `payload_len` bytes of TCP.
    #[inline(always)]
    pub fn tcp(src: [[u8; 8]; 2], dst: [[u8; 8]; 2], payload_len: u16) -> Self {
        Self {
            version_class: 0x60,
            class_flow: [0; 3],
            payload_len: U16::new(payload_len),
            next_header: IPPROTO_TCP,
            hop_limit: HOP_LIMIT,
            src,
            dst,
        }
    }
}
