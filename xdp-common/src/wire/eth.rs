//! Ethernet II with up to two VLAN tags (IEEE 802.3, 802.1Q, 802.1ad).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, big_endian::U16};

use super::Frame;

/// An Ethernet header without its tags.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EthHeader {
    /// Destination MAC address.
    pub dst: [u8; 6],
    /// Source MAC address.
    pub src: [u8; 6],
    /// EtherType of what follows.
    pub ether_type: U16,
}

/// A VLAN tag, without the EtherType that announced it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct VlanTag {
    /// Priority, drop eligibility and VLAN identifier.
    pub tci: U16,
    /// EtherType of what follows.
    pub ether_type: U16,
}

/// EtherType of IPv4.
pub const ETH_P_IP: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETH_P_IPV6: u16 = 0x86dd;
/// EtherType of a customer VLAN tag (802.1Q).
pub const ETH_P_8021Q: u16 = 0x8100;
/// EtherType of a service VLAN tag (802.1ad, QinQ).
pub const ETH_P_8021AD: u16 = 0x88a8;

/// Most VLAN tags that are looked behind: QinQ.
pub const VLAN_TAGS_MAX: usize = 2;

/// The EtherType behind the tags and the offset of the header it announces. `None` if the frame
/// ends before, or is for more than one station: those are not TCP's (RFC 1122 4.2.3.10).
#[inline(always)]
pub fn parse(frame: &(impl Frame + ?Sized)) -> Option<(u16, usize)> {
    let header = frame.get::<EthHeader>(0)?;
    if header.dst[0] & 1 != 0 {
        return None;
    }
    let mut ether_type = header.ether_type.get();
    let mut offset = size_of::<EthHeader>();
    for _ in 0..VLAN_TAGS_MAX {
        if ether_type != ETH_P_8021Q && ether_type != ETH_P_8021AD {
            break;
        }
        ether_type = frame.get::<VlanTag>(offset)?.ether_type.get();
        offset += size_of::<VlanTag>();
    }
    Some((ether_type, offset))
}
