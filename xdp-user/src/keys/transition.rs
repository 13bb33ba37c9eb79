//! How the keys in the data path are changed while it uses them.

use xdp_common::cookie::Key;

/// The keys as the data path holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyState {
    /// Keys by slot.
    pub keys: [Key; 2],
    /// The slot that new cookies are made with, 0 or 1.
    pub slot: u32,
    /// Low 32 bits of the number of the epoch that `slot` belongs to.
    pub epoch: u32,
}

impl KeyState {
    /// The key that new cookies are made with.
    #[must_use]
    pub const fn current(&self) -> Key {
        self.keys[self.slot as usize]
    }

    const fn other(&self) -> usize {
        (self.slot ^ 1) as usize
    }
}

/// The states to write one after the other, from `from` to `to`; the last one is `to`.
///
/// The data path reads without a lock, so the key of the slot in use is never rewritten: the other
/// slot is filled first, then the slot is flipped. In the course of time that takes one step. When
/// the clock jumps by an even number of epochs, the new current key belongs into the slot in use:
/// then cookies are made with the neighbour's key, which is in force as well, for the moment
/// between two steps.
#[must_use]
pub fn steps(from: KeyState, to: KeyState) -> Vec<KeyState> {
    let mut steps = Vec::with_capacity(3);
    let mut state = from;
    let mut step = |change: &dyn Fn(&mut KeyState)| {
        let before = state;
        change(&mut state);
        if state != before {
            steps.push(state);
        }
    };
    step(&|s| s.keys[s.other()] = to.keys[s.other()]);
    if from.current() != to.keys[from.slot as usize] {
        step(&|s| s.slot ^= 1);
        step(&|s| s.keys[s.other()] = to.keys[s.other()]);
    }
    step(&|s| *s = to);
    steps
}
