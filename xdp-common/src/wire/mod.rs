//! Wire formats: one parser for the kernel, the tests and the fuzzer.
//!
//! Headers are byte-aligned views ([`zerocopy`]); multi-byte fields keep wire order until asked.

pub mod checksum;
pub mod eth;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod option_cursor;
pub mod tcp;
pub mod tcp_options;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{tuple::Addr, verdict::Verdict};

/// A type that may be laid over any bytes of a packet.
pub trait Wire: FromBytes + Immutable + KnownLayout + Unaligned {}
impl<T: FromBytes + Immutable + KnownLayout + Unaligned> Wire for T {}

/// A received frame, from the Ethernet header on. Implemented for byte slices and, in the data
/// path, for the packet that the driver hands over.
pub trait Frame {
    /// The `T` at `offset`, or `None` if the frame ends before it does.
    fn get<T: Wire>(&self, offset: usize) -> Option<&T>;

    /// Length of the frame, bytes.
    fn len(&self) -> usize;

    /// Whether the frame has no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A frame that can be changed in place.
pub trait FrameMut: Frame {
    /// Overwrites the bytes at `offset`; `None` if the frame ends before they do.
    fn put<T: IntoBytes + Immutable>(&mut self, offset: usize, value: &T) -> Option<()>;
}

impl Frame for [u8] {
    fn get<T: Wire>(&self, offset: usize) -> Option<&T> {
        let bytes = <[u8]>::get(self, offset..)?;
        T::ref_from_prefix(bytes).ok().map(|(value, _)| value)
    }

    fn len(&self) -> usize {
        <[u8]>::len(self)
    }
}

impl FrameMut for [u8] {
    fn put<T: IntoBytes + Immutable>(&mut self, offset: usize, value: &T) -> Option<()> {
        let bytes = self.get_mut(offset..)?;
        value.write_to_prefix(bytes).ok()
    }
}

/// An IP datagram that carries TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Offset of the TCP header (or of a later fragment's data) in the frame.
    pub l4: usize,
    /// Offset of the first byte behind the datagram: what follows is padding.
    pub end: usize,
    /// Its place in a fragmented datagram.
    pub fragment: Fragment,
}

/// The place of a datagram in a fragmented one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// Not fragmented.
    Whole,
    /// The first fragment, with the datagram's identification.
    First(u32),
    /// Any later one.
    Later(u32),
}

/// Why a frame is no [`Datagram`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotDatagram {
    /// Nothing for this data path, whoever it is for.
    Pass(Verdict),
    /// Malformed; worth dropping if the address has a service.
    Malformed(Verdict, Addr),
}

/// Masks an offset into a frame whose bound the verifier has lost sight of: larger than any offset
/// that occurs (the longest chain of extension headers ends below 16 KiB), smaller than the
/// verifier's own limit (`MAX_PACKET_OFF`, 65,535).
pub const OFFSET_MASK: usize = 0x7fff;

/// Protocol number of TCP (IANA).
pub const IPPROTO_TCP: u8 = 6;

#[cfg(test)]
mod tests;
