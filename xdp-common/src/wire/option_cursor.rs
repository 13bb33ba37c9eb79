//! Where an option area is read: the rules by which one TCP option follows another (RFC 9293 3.1).

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::{
    Frame, OFFSET_MASK, Wire,
    tcp::{HEADER_LEN, OPTION_WORDS_MAX, Segment},
};

const END: u8 = 0;
/// Padding between options.
pub const NOP: u8 = 1;
/// Maximum segment size (RFC 9293 3.7.1).
pub const MSS: u8 = 2;
/// Window scale (RFC 7323 2).
pub const WINDOW_SCALE: u8 = 3;
/// Selective acknowledgement is permitted (RFC 2018 2).
pub const SACK_PERMITTED: u8 = 4;
/// Selective acknowledgement (RFC 2018 3).
pub const SACK: u8 = 5;
/// Timestamps (RFC 7323 3).
pub const TIMESTAMPS: u8 = 8;

/// A place in the option area of a segment.
///
/// It reads from the frame and not from a copy, because the verifier would tell apart every offset
/// into a copy on the stack.
#[derive(Clone, Copy, Debug)]
pub struct Cursor {
    /// Offset of the option area in the frame.
    area: usize,
    /// Offset of the next option in the area.
    at: usize,
    /// Length of the area.
    end: usize,
}

impl Cursor {
    /// Options after which every area has ended: an option takes at least a byte.
    pub const STEPS_MAX: u32 = OPTION_WORDS_MAX as u32 * 4;

    /// The segment's first option.
    #[inline(always)]
    #[must_use]
    pub const fn new(segment: &Segment) -> Self {
        Self {
            area: segment.l4 + HEADER_LEN,
            at: 0,
            end: segment.option_words * 4,
        }
    }

    /// Kind and length of the next option, which is there whole; `None` at the end of the options,
    /// and where a length is impossible.
    #[inline(always)]
    pub fn head(&self, frame: &(impl Frame + ?Sized)) -> Option<(u8, u8)> {
        if self.at >= self.end {
            return None;
        }
        let kind = self.get::<[u8; 1]>(frame, 0)?[0];
        if kind == NOP {
            return Some((NOP, 1));
        }
        if kind == END || self.at + 1 >= self.end {
            return None;
        }
        let len = self.get::<[u8; 1]>(frame, 1)?[0];
        if len < 2 || self.at + len as usize > self.end {
            return None;
        }
        Some((kind, len))
    }

    /// Goes on by `len` bytes.
    #[inline(always)]
    pub const fn advance(&mut self, len: u8) {
        self.at += len as usize;
    }

    /// Offset in the frame of the byte at `offset` in the next option.
    #[inline(always)]
    #[must_use]
    pub const fn place(&self, offset: usize) -> usize {
        (self.area & OFFSET_MASK) + (self.at & 63) + offset
    }

    /// Whether the byte at `offset` in the next option is the lower one of a word of the checksum.
    #[inline(always)]
    #[must_use]
    pub const fn is_odd(&self, offset: usize) -> bool {
        (self.at + offset) & 1 != 0
    }

    /// The `T` at `offset` in the next option.
    ///
    /// Taken together with the byte before it, which the TCP header provides: the verifier does not
    /// understand the comparison that guards a single byte.
    #[inline(always)]
    pub fn get<T: Wire + Copy>(&self, frame: &(impl Frame + ?Sized), offset: usize) -> Option<T> {
        #[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        struct Preceded<T> {
            before: u8,
            value: T,
        }
        frame
            .get::<Preceded<T>>(self.place(offset) - 1)
            .map(|preceded| preceded.value)
    }
}
