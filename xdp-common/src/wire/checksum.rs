//! The Internet checksum (RFC 1071), summed 32 bits at a time.

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A sum of wire words in the machine's own order (RFC 1071 2 B: the order does not matter as long
/// as it is the same throughout).
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds a header or field of an even number of bytes, at an even offset from the start.
    #[inline(always)]
    pub fn with<T: IntoBytes + Immutable>(mut self, value: T) -> Self {
        let bytes = value.as_bytes();
        let mut offset = 0;
        while offset + 4 <= size_of::<T>() {
            self.0 += word32(bytes, offset);
            offset += 4;
        }
        if offset < size_of::<T>() {
            self.0 += u64::from(u16::from_ne_bytes([bytes[offset], bytes[offset + 1]]));
        }
        self
    }

    /// Adds four wire bytes that were read as one word in the machine's order.
    #[inline(always)]
    pub const fn with_word(self, word: u32) -> Self {
        Self(self.0 + word as u64)
    }

    /// Adds a 16-bit number.
    #[inline(always)]
    pub const fn with_be16(self, value: u16) -> Self {
        Self(self.0 + value.to_be() as u64)
    }

    /// Adds another sum.
    #[inline(always)]
    pub const fn with_sum(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The sum as the wire bytes of a 16-bit word, not complemented. A correct header or segment,
    /// its checksum field included, sums to `[0xff, 0xff]`.
    #[inline(always)]
    pub const fn folded(self) -> [u8; 2] {
        self.fold().to_ne_bytes()
    }

    #[inline(always)]
    const fn fold(self) -> u16 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        sum as u16
    }

    /// The checksum field that makes everything summed correct.
    #[inline(always)]
    pub const fn checksum(self) -> [u8; 2] {
        (!self.fold()).to_ne_bytes()
    }
}

#[inline(always)]
fn word32(bytes: &[u8], offset: usize) -> u64 {
    u32::read_from_prefix(&bytes[offset..]).map_or(0, |(word, _)| u64::from(word))
}
