//! Layer 2 of a spliced connection: where a frame came from, and the header that takes it on.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, big_endian::U16};

use super::flow::Hop;
use crate::wire::{
    Frame, FrameMut,
    eth::{EthHeader, VLAN_TAGS_MAX, VlanTag},
};

/// What of a tag names the VLAN: its TPID, and of its TCI all but the priority (IEEE 802.1Q 9.6),
/// which is each frame's own.
const TAG_MASK: u32 = 0xffff_0fff;

/// A tag with the EtherType that announces it, in the order of the wire.
type Tag = [U16; 2];

/// An Ethernet header with a number of tags.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Tagged<const TAGS: usize> {
    dst: [u8; 6],
    src: [u8; 6],
    tags: [Tag; TAGS],
    ether_type: U16,
}

impl Hop {
    /// The way back for a frame whose IP header is at `l3` and that came in on the interface
    /// `ifindex`. `None` if the frame has no such header.
    #[inline(always)]
    pub fn back(frame: &(impl Frame + ?Sized), l3: usize, ifindex: u32) -> Option<Self> {
        let header = frame.get::<EthHeader>(0)?;
        let mut hop = Self {
            ifindex,
            dst_mac: header.src,
            src_mac: header.dst,
            ..Self::default()
        };
        for (i, tag) in hop.tags.iter_mut().enumerate() {
            let at = size_of::<EthHeader>() + i * size_of::<VlanTag>();
            if at < l3 {
                let [tpid, tci] = *frame.get::<Tag>(at - size_of::<U16>())?;
                *tag = (u32::from(tpid.get()) << 16 | u32::from(tci.get())) & TAG_MASK;
            }
        }
        Some(hop)
    }

    /// Whether both are the same way, whenever they were confirmed.
    #[inline(always)]
    #[must_use]
    pub fn is_way_of(&self, other: &Self) -> bool {
        self.ifindex == other.ifindex
            && self.tags == other.tags
            && self.dst_mac == other.dst_mac
            && self.src_mac == other.src_mac
    }

    /// Whether it leads anywhere.
    #[inline(always)]
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.ifindex != 0
    }

    /// Length of the Ethernet header of frames that go this way, bytes.
    #[inline(always)]
    #[must_use]
    pub const fn header_len(&self) -> usize {
        let tags = (self.tags[0] != 0) as usize + (self.tags[1] != 0) as usize;
        size_of::<EthHeader>() + tags * size_of::<VlanTag>()
    }

    /// Writes the Ethernet header of a frame that goes this way. `None` if the frame is too short.
    #[inline(always)]
    pub fn put(&self, frame: &mut (impl FrameMut + ?Sized), ether_type: u16) -> Option<()> {
        let tag = |tag: u32| [U16::new((tag >> 16) as u16), U16::new(tag as u16)];
        match self.tags {
            [0, _] => frame.put(0, &self.header([], ether_type)),
            [outer, 0] => frame.put(0, &self.header([tag(outer)], ether_type)),
            [outer, inner] => frame.put(0, &self.header([tag(outer), tag(inner)], ether_type)),
        }
    }

    #[inline(always)]
    const fn header<const TAGS: usize>(&self, tags: [Tag; TAGS], ether_type: u16) -> Tagged<TAGS> {
        Tagged {
            dst: self.dst_mac,
            src: self.src_mac,
            tags,
            ether_type: U16::new(ether_type),
        }
    }
}

const _: () = assert!(VLAN_TAGS_MAX == 2, "as many as `Hop::tags` has");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::eth::{self, ETH_P_8021AD, ETH_P_8021Q, ETH_P_IPV6};

    const SRC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const DST: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn hop(tags: [u32; 2]) -> Hop {
        Hop {
            ifindex: 3,
            tags,
            dst_mac: DST,
            src_mac: SRC,
            confirmed_s: 0,
        }
    }

    #[test]
    fn what_is_written_is_the_way_back_of_who_reads_it() {
        let outer = u32::from(ETH_P_8021AD) << 16 | 200;
        let inner = u32::from(ETH_P_8021Q) << 16 | 100;
        for (tags, len) in [([0, 0], 14), ([inner, 0], 18), ([outer, inner], 22)] {
            let way = hop(tags);
            assert_eq!(way.header_len(), len);
            let mut frame = [0xee_u8; 22];
            way.put(&mut frame[..len], ETH_P_IPV6).unwrap();
            assert_eq!(eth::parse(&frame[..len]), Some((ETH_P_IPV6, len)));
            let back = Hop::back(&frame[..len], len, 4).unwrap();
            assert_eq!((back.dst_mac, back.src_mac), (SRC, DST));
            assert_eq!((back.tags, back.ifindex), (tags, 4));
            assert!(way.put(&mut frame[..len - 1], ETH_P_IPV6).is_none());
        }
    }

    #[test]
    fn a_priority_makes_no_other_vlan() {
        let tag = u32::from(ETH_P_8021Q) << 16 | 100;
        let mut frame = [0; 18];
        hop([tag | 5 << 13, 0])
            .put(&mut frame[..], ETH_P_IPV6)
            .unwrap();
        let back = Hop::back(&frame[..], 18, 3).unwrap();
        assert_eq!(back.tags, [tag, 0]);
        let other = Hop {
            confirmed_s: 9,
            ..back
        };
        assert!(back.is_way_of(&other));
        assert!(!back.is_way_of(&Hop { ifindex: 4, ..back }));
        assert!(back.is_known() && !Hop::default().is_known());
    }
}
