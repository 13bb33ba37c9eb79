//! All deadlines of a worker in one hierarchical timing wheel (Varghese and Lauck 1987, scheme 7).
//!
//! A deadline is set again lazily: bytes move a connection's deadline without telling the wheel,
//! and when the wheel fires, the connection says how much is left. So a busy connection costs the
//! wheel as little as an idle one.

#[cfg(test)]
mod tests;

use super::Tick;

/// What the wheel can tell apart, milliseconds. A deadline fires up to this late, never early.
pub const GRANULARITY_MS: u64 = 16;

/// Entries that one [`Wheel::advance`] moves at most, so that a worker's connections need not wait
/// for the wheel.
pub const MOVES_MAX: usize = 1_024;

/// Slots of 16 ms, of 4 s, of 17 min and of 3 days. Deadlines beyond the 2 years of the last level
/// wait in its last slot and are then placed again.
const LEVELS: usize = 4;
const SLOTS_LOG2: u32 = 8;
const SLOTS: usize = 1 << SLOTS_LOG2;

/// The list of what is due, behind the lists of all slots.
const DUE: usize = LEVELS * SLOTS;

/// Where the keys' nodes start, behind the heads of the lists.
const FIRST_KEY: usize = DUE + 1;

/// Entry of a doubly linked list, or the head of one.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// Both are the node's own index while it is in no list; a head's, while the list is empty.
    previous: u32,
    next: u32,
    /// In granules, rounded up.
    deadline: u64,
}

const _: () = assert!(size_of::<Node>() == 16);

/// Deadlines by key. Keys are small numbers: slab indexes. Memory is 16 bytes for each up to the
/// largest that was ever set.
#[derive(Debug)]
pub struct Wheel {
    nodes: Vec<Node>,
    /// One bit for each slot whose list is not empty.
    occupied: [[u64; SLOTS / 64]; LEVELS],
    /// In granules. Everything that was due before is in the list `DUE`.
    now: u64,
}

impl Wheel {
    /// An empty one.
    #[must_use]
    pub fn new(now: Tick) -> Self {
        let mut wheel = Self {
            nodes: Vec::new(),
            occupied: Default::default(),
            now: now.0 / GRANULARITY_MS,
        };
        wheel.grow(FIRST_KEY);
        wheel
    }

    /// Sets the deadline of `key`, in place of the one it had.
    pub fn set(&mut self, key: u32, deadline: Tick) {
        let node = FIRST_KEY + key as usize;
        self.grow(node + 1);
        self.unlink(node);
        self.nodes[node].deadline = deadline.0.div_ceil(GRANULARITY_MS);
        self.place(node);
    }

    /// Forgets the deadline of `key`, if it has one.
    pub fn clear(&mut self, key: u32) {
        let node = FIRST_KEY + key as usize;
        if node < self.nodes.len() {
            self.unlink(node);
        }
    }

    /// Appends the keys whose deadlines are reached at `now` to `expired` and forgets them.
    /// Returns true when it stopped at [`MOVES_MAX`] and has more to do for the same `now`.
    pub fn advance(&mut self, now: Tick, expired: &mut Vec<u32>) -> bool {
        let end = now.0 / GRANULARITY_MS;
        let mut moves = MOVES_MAX;
        loop {
            while let Some(node) = self.first(DUE) {
                if moves == 0 {
                    return true;
                }
                moves -= 1;
                self.unlink(node);
                expired.push((node - FIRST_KEY) as u32);
            }
            let Some((start, head)) = self.earliest().filter(|(start, _)| *start <= end) else {
                self.now = self.now.max(end);
                return false;
            };
            self.now = self.now.max(start);
            while let Some(node) = self.first(head) {
                if moves == 0 {
                    return true;
                }
                moves -= 1;
                self.unlink(node);
                self.place(node);
            }
        }
    }

    /// When [`advance`](Self::advance) has something to do; not later than the earliest deadline.
    #[must_use]
    pub fn next(&self) -> Option<Tick> {
        let granule = match self.first(DUE) {
            Some(_) => self.now,
            None => self.earliest()?.0,
        };
        Some(Tick(granule * GRANULARITY_MS))
    }

    /// The first slot in time that holds something: when it starts, and its list. What it holds
    /// has to be placed again by then.
    fn earliest(&self) -> Option<(u64, usize)> {
        (0..LEVELS)
            .filter_map(|level| {
                let shift = SLOTS_LOG2 * level as u32;
                let current = self.now >> shift;
                let distance = self.distance(level, current as usize % SLOTS)?;
                let number = current + distance as u64;
                Some((number << shift, level * SLOTS + number as usize % SLOTS))
            })
            .min_by_key(|(start, _)| *start)
    }

    /// From slot `from` of a level to its first occupied one, around the wheel.
    fn distance(&self, level: usize, from: usize) -> Option<usize> {
        let words = &self.occupied[level];
        // The first word is looked at twice: its upper part first, its lower part last.
        (0..=words.len()).find_map(|n| {
            let index = (from / 64 + n) % words.len();
            let part = match n {
                0 => u64::MAX << (from % 64),
                _ if n == words.len() => !(u64::MAX << (from % 64)),
                _ => u64::MAX,
            };
            let found = words[index] & part;
            let slot = index * 64 + found.trailing_zeros() as usize;
            (found != 0).then(|| (slot + SLOTS - from) % SLOTS)
        })
    }

    /// Links a node that is in no list where its deadline belongs.
    fn place(&mut self, node: usize) {
        let deadline = self.nodes[node].deadline;
        if deadline <= self.now {
            return self.link(node, DUE);
        }
        // The highest digit, base 256, in which the deadline differs from now: all slots of lower
        // levels are over before its turn comes.
        let differs = (deadline ^ self.now).ilog2() / SLOTS_LOG2;
        let level = (differs as usize).min(LEVELS - 1);
        let shift = SLOTS_LOG2 * level as u32;
        let last = (self.now >> shift) + SLOTS as u64 - 1;
        let slot = (deadline >> shift).min(last) as usize % SLOTS;
        self.occupied[level][slot / 64] |= 1 << (slot % 64);
        self.link(node, level * SLOTS + slot);
    }

    /// The first node of a list.
    fn first(&self, head: usize) -> Option<usize> {
        let next = self.nodes[head].next as usize;
        (next != head).then_some(next)
    }

    /// Appends a node that is in no list.
    fn link(&mut self, node: usize, head: usize) {
        let last = self.nodes[head].previous;
        self.nodes[node].previous = last;
        self.nodes[node].next = head as u32;
        self.nodes[last as usize].next = node as u32;
        self.nodes[head].previous = node as u32;
    }

    /// Takes a node out of its list, if it is in one.
    fn unlink(&mut self, node: usize) {
        let Node { previous, next, .. } = self.nodes[node];
        self.nodes[previous as usize].next = next;
        self.nodes[next as usize].previous = previous;
        self.nodes[node].previous = node as u32;
        self.nodes[node].next = node as u32;
        // Only the head is left.
        let head = next as usize;
        if previous == next && head < DUE {
            let slot = head % SLOTS;
            self.occupied[head / SLOTS][slot / 64] &= !(1 << (slot % 64));
        }
    }

    /// Makes room for `len` nodes, heads included.
    fn grow(&mut self, len: usize) {
        for node in self.nodes.len()..len {
            self.nodes.push(Node {
                previous: node as u32,
                next: node as u32,
                deadline: 0,
            });
        }
    }
}
