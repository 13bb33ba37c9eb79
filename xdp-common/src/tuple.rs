//! Addresses and the TCP 4-tuple in the form the data path compares and hashes them.

use core::{fmt, net::IpAddr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The upper half of every IPv4-mapped address's lower eight bytes: `::ffff:0:0/96` (RFC 4291
/// 2.5.5.2), as [`Addr`] reads it.
const V4_MAPPED: u64 = 0xffff_0000;

/// An IP address as two words of its 16 wire bytes, each read little-endian whatever the machine,
/// so that cookies agree across a fleet. IPv4 is IPv4-mapped.
#[derive(
    Clone, Copy, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Addr {
    /// The first eight bytes.
    pub hi: u64,
    /// The last eight bytes.
    pub lo: u64,
}

impl Addr {
    /// From the four wire bytes of an IPv4 address.
    #[inline(always)]
    pub const fn v4(bytes: [u8; 4]) -> Self {
        Self {
            hi: 0,
            lo: V4_MAPPED | (u32::from_le_bytes(bytes) as u64) << 32,
        }
    }

    /// From the sixteen wire bytes of an IPv6 address.
    #[inline(always)]
    pub const fn v6(hi: [u8; 8], lo: [u8; 8]) -> Self {
        Self {
            hi: u64::from_le_bytes(hi),
            lo: u64::from_le_bytes(lo),
        }
    }

    /// The four wire bytes of an IPv4-mapped address as one little-endian word. Meaningless for
    /// an IPv6 address.
    #[inline(always)]
    pub const fn v4_word(self) -> u32 {
        (self.lo >> 32) as u32
    }

    /// Whether a SYN may be answered to this source. Nobody opens a connection from a multicast,
    /// broadcast, loopback or unspecified address (RFC 1122 3.2.1.3, RFC 4291 2.7): an answer
    /// could only be a reflection. 240.0.0.0/4 is reserved, but Linux uses it like any other.
    #[inline(always)]
    pub const fn is_unicast_source(self) -> bool {
        if self.hi == 0 && self.lo as u32 as u64 == V4_MAPPED {
            let first = self.v4_word() as u8;
            let reserved = first >= 240 && self.v4_word() != u32::MAX;
            return first != 0 && first != 127 && (first < 224 || reserved);
        }
        let multicast = self.hi as u8 == 0xff;
        let low_64 = self.hi == 0 && self.lo.swap_bytes() <= 1;
        !multicast && !low_64
    }

    /// The address in the standard library's form; an IPv4-mapped one as IPv4.
    pub fn to_ip(self) -> IpAddr {
        let mut octets = [0; 16];
        octets[..8].copy_from_slice(&self.hi.to_le_bytes());
        octets[8..].copy_from_slice(&self.lo.to_le_bytes());
        core::net::Ipv6Addr::from(octets).to_canonical()
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => {
                let value = u128::from_le_bytes(v6.octets());
                Self {
                    hi: value as u64,
                    lo: (value >> 64) as u64,
                }
            }
        }
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_ip())
    }
}

/// The addresses and ports of a segment, as it travels: `src` is the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Sender's address.
    pub src: Addr,
    /// Receiver's address.
    pub dst: Addr,
    /// Sender's port, host order.
    pub src_port: u16,
    /// Receiver's port, host order.
    pub dst_port: u16,
}

impl Tuple {
    /// Whether a SYN may be answered: not one from an address that nobody connects from, nor from
    /// the service's own address and port.
    #[inline(always)]
    pub fn is_answerable(&self) -> bool {
        let to_itself = self.src == self.dst && self.src_port == self.dst_port;
        !to_itself && self.src.is_unicast_source()
    }

    /// That of an answer.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
        }
    }

    /// Both ports in one word.
    #[inline(always)]
    pub const fn ports(&self) -> u32 {
        self.src_port as u32 | (self.dst_port as u32) << 16
    }

    /// A fast, unkeyed hash for tables in which a collision costs time but never correctness.
    #[inline(always)]
    pub const fn hash(&self) -> u64 {
        const K: u64 = 0x9e37_79b9_7f4a_7c15;
        let src = (self.src.hi ^ self.src.lo.rotate_left(23)).wrapping_mul(K);
        let dst = self.dst.hi ^ self.dst.lo ^ self.ports() as u64;
        (src ^ src >> 32 ^ dst).wrapping_mul(K)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn round_trips_through_the_standard_form() {
        for text in [
            "192.0.2.1",
            "255.255.255.255",
            "2001:db8::1",
            "::1",
            "fe80::ff:1",
        ] {
            assert_eq!(addr(text).to_ip(), text.parse::<IpAddr>().unwrap());
        }
        assert_eq!(addr("::ffff:192.0.2.1"), addr("192.0.2.1"));
        assert_eq!(Addr::v4([192, 0, 2, 1]), addr("192.0.2.1"));
    }

    #[test]
    fn only_unicast_sources_are_answered() {
        for text in [
            "192.0.2.1",
            "10.0.0.1",
            "223.255.255.255",
            "240.0.0.1",
            "2001:db8::1",
            "fe80::1",
            "::2",
        ] {
            assert!(addr(text).is_unicast_source(), "{text}");
        }
        let never = [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "ff02::1",
        ];
        for text in never {
            assert!(!addr(text).is_unicast_source(), "{text}");
        }
    }

    #[test]
    fn the_hash_depends_on_every_part() {
        let base = Tuple {
            src: addr("192.0.2.1"),
            dst: addr("198.51.100.1"),
            src_port: 1000,
            dst_port: 443,
        };
        let others = [
            Tuple {
                src: addr("192.0.2.2"),
                ..base
            },
            Tuple {
                dst: addr("198.51.100.2"),
                ..base
            },
            Tuple {
                src_port: 1001,
                ..base
            },
            Tuple {
                dst_port: 80,
                ..base
            },
        ];
        for other in others {
            assert_ne!(base.hash(), other.hash(), "{other:?}");
        }
    }
}
