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
        fold(self.0)
    }

    /// The checksum field that makes everything summed correct.
    #[inline(always)]
    pub const fn checksum(self) -> [u8; 2] {
        (!self.fold()).to_ne_bytes()
    }
}

/// What changed bytes change of the sum they are part of, to update its checksum without summing
/// everything again (RFC 1624 3).
#[derive(Clone, Copy, Debug)]
pub struct Change(u64);

impl Change {
    /// Nothing changed.
    pub const NONE: Self = Self(0);

    /// Eight wire bytes at an even offset.
    #[inline(always)]
    #[must_use]
    pub const fn with_8(self, old: [u8; 8], new: [u8; 8]) -> Self {
        let (old, new) = (!u64::from_ne_bytes(old), u64::from_ne_bytes(new));
        Self(self.0 + (old & LOW) + (old >> 32) + (new & LOW) + (new >> 32))
    }

    /// Four wire bytes at an even offset.
    #[inline(always)]
    #[must_use]
    pub const fn with_4(self, old: [u8; 4], new: [u8; 4]) -> Self {
        let (old, new) = (!u32::from_ne_bytes(old), u32::from_ne_bytes(new));
        Self(self.0 + old as u64 + new as u64)
    }

    /// Two wire bytes at an even offset.
    #[inline(always)]
    #[must_use]
    pub const fn with_2(self, old: [u8; 2], new: [u8; 2]) -> Self {
        let (old, new) = (!u16::from_ne_bytes(old), u16::from_ne_bytes(new));
        Self(self.0 + old as u64 + new as u64)
    }

    /// Another change of the same sum.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The same change of bytes that stand at an odd offset: what was the upper byte of a word of
    /// the sum is the lower one (RFC 1071 2 B).
    #[inline(always)]
    #[must_use]
    pub const fn at_odd_offset(self) -> Self {
        Self(fold(self.0).swap_bytes() as u64)
    }

    /// The checksum field, updated.
    #[inline(always)]
    #[must_use]
    pub const fn applied_to(self, field: [u8; 2]) -> [u8; 2] {
        let old = !u16::from_ne_bytes(field);
        (!fold(self.0 + old as u64)).to_ne_bytes()
    }
}

/// The lower half of a word.
const LOW: u64 = 0xffff_ffff;

#[inline(always)]
const fn fold(sum: u64) -> u16 {
    let sum = (sum & LOW) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

#[inline(always)]
fn word32(bytes: &[u8], offset: usize) -> u64 {
    u32::read_from_prefix(&bytes[offset..]).map_or(0, |(word, _)| u64::from(word))
}
