//! The options of a segment, of which timestamps and selective acknowledgements are translated.

use zerocopy::big_endian::U32;

use crate::wire::{
    FrameMut,
    checksum::Change,
    option_cursor::{Cursor, SACK, TIMESTAMPS},
    tcp::{HEADER_LEN, Segment},
    tcp_options::TIMESTAMPS_WORD,
};

/// `NOP, NOP, SACK`, and the length.
const SACK_WORD: u32 = 0x0101_0500;

/// Most blocks of an option (RFC 2018 3): four, three beside timestamps.
const SACK_BLOCKS_MAX: usize = 4;

/// Bytes of kind and length.
const HEAD_LEN: u8 = 2;

/// What is added to the numbers in options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adds {
    /// To the sender's timestamp.
    pub value: u32,
    /// To the timestamp that it echoes.
    pub echo: u32,
    /// To both edges of every block that it acknowledges selectively, duplicates (RFC 2883) too.
    pub edge: u32,
}

/// Translates options that are laid out as all common stacks do it after the handshake: timestamps,
/// selective acknowledgement or both, each behind two NOPs. `None` for any other layout, and then
/// nothing has changed.
#[inline(always)]
pub(super) fn common_layout<F: FrameMut + ?Sized>(
    frame: &mut F,
    segment: &Segment,
    adds: &Adds,
) -> Option<Change> {
    let area = segment.l4 + HEADER_LEN;
    let words = segment.option_words;
    if words == 0 {
        return Some(Change::NONE);
    }
    let first = frame.get::<U32>(area)?.get();
    if first != TIMESTAMPS_WORD {
        return blocks(frame, area, words, adds, first);
    }
    let change = if words == 3 {
        Change::NONE
    } else {
        let head = frame.get::<U32>(area + 12)?.get();
        blocks(frame, area + 12, words - 3, adds, head)?
    };
    Some(change.with(pair(frame, area + 4, adds.value, adds.echo)?))
}

/// Translates selective acknowledgements that take the rest of the options, `words`, the first of
/// which is `head`.
#[inline(always)]
fn blocks<F: FrameMut + ?Sized>(
    frame: &mut F,
    at: usize,
    words: usize,
    adds: &Adds,
    head: u32,
) -> Option<Change> {
    let bytes = (words as u32 - 1) * 4;
    if head != SACK_WORD | (u32::from(HEAD_LEN) + bytes) || !bytes.is_multiple_of(8) || bytes == 0 {
        return None;
    }
    let mut change = Change::NONE;
    if adds.edge != 0 {
        for block in 0..SACK_BLOCKS_MAX {
            if block * 8 < bytes as usize {
                change = change.with(pair(frame, at + 4 + block * 8, adds.edge, adds.edge)?);
            }
        }
    }
    Some(change)
}

/// Adds to two numbers at an even offset, one behind the other.
#[inline(always)]
fn pair<F: FrameMut + ?Sized>(frame: &mut F, at: usize, first: u32, second: u32) -> Option<Change> {
    let old = *frame.get::<[[u8; 4]; 2]>(at)?;
    let new = [added(old[0], first), added(old[1], second)];
    frame.put(at, &new)?;
    let change = Change::NONE.with_4(old[0], new[0]).with_4(old[1], new[1]);
    Some(change)
}

#[inline(always)]
const fn added(number: [u8; 4], add: u32) -> [u8; 4] {
    u32::from_be_bytes(number).wrapping_add(add).to_be_bytes()
}

/// Translates a segment's options one by one, wherever they stand.
///
/// It is driven from outside, step by step, because the data path has to loop in the kernel's way.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    cursor: Cursor,
    adds: Adds,
    /// Edges of the current option that are still to be translated.
    edges: u8,
    change: Change,
}

impl Walk {
    /// Steps after which every walk has ended: each takes at least a byte.
    pub const STEPS_MAX: u32 = Cursor::STEPS_MAX;

    /// Starts at the segment's first option.
    #[inline(always)]
    pub(super) const fn new(segment: &Segment, adds: Adds) -> Self {
        Self {
            cursor: Cursor::new(segment),
            adds,
            edges: 0,
            change: Change::NONE,
        }
    }

    /// Translates one option, or one edge of a block; `false` if there are no more.
    #[inline(always)]
    pub fn step(&mut self, frame: &mut (impl FrameMut + ?Sized)) -> bool {
        self.next(frame).is_some()
    }

    #[inline(always)]
    fn next(&mut self, frame: &mut (impl FrameMut + ?Sized)) -> Option<()> {
        if self.edges > 0 {
            self.edges -= 1;
            self.add(frame, 0, self.adds.edge)?;
            self.cursor.advance(4);
            return Some(());
        }
        let (kind, len) = self.cursor.head(frame)?;
        match kind {
            TIMESTAMPS if len == 10 => {
                self.add(frame, 2, self.adds.value)?;
                self.add(frame, 6, self.adds.echo)?;
                self.cursor.advance(len);
            }
            SACK if (len - HEAD_LEN).is_multiple_of(8) => {
                self.edges = (len - HEAD_LEN) / 4;
                self.cursor.advance(HEAD_LEN);
            }
            _ => self.cursor.advance(len),
        }
        Some(())
    }

    /// Adds to the number at `offset` in the next option.
    #[inline(always)]
    fn add(&mut self, frame: &mut (impl FrameMut + ?Sized), offset: usize, add: u32) -> Option<()> {
        let old: [u8; 4] = self.cursor.get(frame, offset)?;
        let new = added(old, add);
        frame.put(self.cursor.place(offset), &new)?;
        let change = Change::NONE.with_4(old, new);
        self.change = self.change.with(if self.cursor.is_odd(offset) {
            change.at_odd_offset()
        } else {
            change
        });
        Some(())
    }

    /// What the translated options mean to the checksum.
    #[inline(always)]
    #[must_use]
    pub const fn change(&self) -> Change {
        self.change
    }
}
