//! How fast the table is swept: once in [`ROUND_MS`], in pieces, so that no handshake waits for it.

use std::ops::Range;

use crate::engine::Tick;

/// How long a round through the table takes, milliseconds.
pub(super) const ROUND_MS: u64 = 1000;

/// Between two pieces, milliseconds.
pub(super) const PAUSE_MS: u64 = 20;

/// Flows of one piece at most: some 200 microseconds. It bounds what is done at once when the thread
/// was kept from its work, and is more than a table of 16 million needs.
const PIECE_MAX: u64 = 1 << 15;

/// Where a sweep is.
#[derive(Debug)]
pub(super) struct Sweep {
    next: u32,
    last: Tick,
}

/// A part of the table to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Numbers of flows.
    pub(super) range: Range<u32>,
    /// Whether a round ends with it.
    pub(super) last: bool,
}

impl Sweep {
    pub(super) const fn new(now: Tick) -> Self {
        Self { next: 1, last: now }
    }

    /// When there will be a piece to sweep.
    pub(super) const fn due(&self) -> Tick {
        self.last.after(PAUSE_MS)
    }

    /// What is to be swept now, of a table with numbers below `end`.
    pub(super) fn piece(&mut self, now: Tick, end: u32) -> Option<Piece> {
        let elapsed_ms = now.since(self.last);
        if elapsed_ms < PAUSE_MS {
            return None;
        }
        self.last = now;
        let count = (u64::from(end) * elapsed_ms.min(ROUND_MS)).div_ceil(ROUND_MS);
        let count = count.min(PIECE_MAX) as u32;
        let start = self.next.min(end);
        let range = start..start.saturating_add(count).min(end);
        let last = range.end >= end;
        self.next = if last { 1 } else { range.end };
        Some(Piece { range, last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(end: u32) -> (u64, u32) {
        let mut sweep = Sweep::new(Tick(0));
        let (mut pieces, mut swept) = (0, 1);
        loop {
            let now = sweep.due();
            let piece = sweep.piece(now, end).unwrap();
            assert_eq!(piece.range.start, swept);
            swept = piece.range.end;
            pieces += 1;
            if piece.last {
                assert_eq!(swept, end.max(1));
                return (now.0, pieces);
            }
        }
    }

    #[test]
    fn a_round_takes_a_second_however_many_there_are() {
        assert_eq!(round(1), (PAUSE_MS, 1));
        assert_eq!(round(2), (PAUSE_MS, 1));
        let (ms, _) = round(1 << 20);
        assert!((980..=1000).contains(&ms), "{ms}");
    }

    #[test]
    fn the_largest_table_takes_longer_and_the_thread_no_more() {
        let (ms, pieces) = round(1 << 24);
        assert_eq!((ms / PAUSE_MS, pieces), (512, 512));
    }

    #[test]
    fn nothing_is_swept_twice_in_a_pause() {
        let mut sweep = Sweep::new(Tick(5));
        assert_eq!(sweep.piece(Tick(6), 100), None);
        assert!(sweep.piece(Tick(5 + PAUSE_MS), 100).is_some());
        assert_eq!(sweep.piece(Tick(6 + PAUSE_MS), 100), None);
    }

    #[test]
    fn a_table_that_has_shrunk_is_begun_anew() {
        let mut sweep = Sweep::new(Tick(0));
        sweep.piece(Tick(500), 1000).unwrap();
        let piece = sweep.piece(Tick(600), 10).unwrap();
        assert_eq!((piece.range, piece.last), (10..10, true));
    }
}
