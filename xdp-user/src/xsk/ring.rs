//! The rings between process and kernel: one side writes entries and the producer's count, the other
//! reads them and writes the consumer's. Counts wrap; entries are numbered by them, modulo the
//! ring's size.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use nix::libc;
use zerocopy::transmute;

use crate::mapping::Mapping;

/// A frame in user memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    /// Offset of its first byte.
    pub(super) addr: u64,
    /// Bytes.
    pub(super) len: u32,
}

/// What an entry of a ring is.
pub(super) trait Entry: Sized {
    /// Words of 64 bits.
    const WORDS: usize;

    fn store(self, cells: &[AtomicU64]);

    fn load(cells: &[AtomicU64]) -> Self;
}

/// Of the fill ring and the completion ring: where a frame is.
impl Entry for u64 {
    const WORDS: usize = 1;

    fn store(self, cells: &[AtomicU64]) {
        cells[0].store(self, Relaxed);
    }

    fn load(cells: &[AtomicU64]) -> Self {
        cells[0].load(Relaxed)
    }
}

/// Of the rings for receiving and sending: `xdp_desc`.
impl Entry for Descriptor {
    const WORDS: usize = 2;

    fn store(self, cells: &[AtomicU64]) {
        let options = 0_u32;
        cells[0].store(self.addr, Relaxed);
        cells[1].store(transmute!([self.len, options]), Relaxed);
    }

    fn load(cells: &[AtomicU64]) -> Self {
        let [len, _options]: [u32; 2] = transmute!(cells[1].load(Relaxed));
        Self {
            addr: cells[0].load(Relaxed),
            len,
        }
    }
}

/// A ring as it is mapped.
#[derive(Debug)]
struct Ring {
    mapping: Mapping,
    offsets: libc::xdp_ring_offset,
    size: u32,
}

impl Ring {
    fn new<E: Entry>(
        socket: BorrowedFd<'_>,
        page_offset: i64,
        offsets: libc::xdp_ring_offset,
        size: u32,
    ) -> io::Result<Self> {
        let entries = size as usize * E::WORDS * size_of::<u64>();
        let mapping = Mapping::new(socket, page_offset, offsets.desc as usize + entries)?;
        Ok(Self {
            mapping,
            offsets,
            size,
        })
    }

    fn number(&self, offset: u64) -> &AtomicU32 {
        &self.mapping.halves(offset as usize, 1)[0]
    }

    fn producer(&self) -> &AtomicU32 {
        self.number(self.offsets.producer)
    }

    fn consumer(&self) -> &AtomicU32 {
        self.number(self.offsets.consumer)
    }

    fn entry<E: Entry>(&self, count: u32) -> &[AtomicU64] {
        let position = (count & (self.size - 1)) as usize;
        let offset = position * E::WORDS * size_of::<u64>();
        let start = self.offsets.desc as usize + offset;
        self.mapping.words(start, E::WORDS)
    }
}

/// A ring that this process writes.
#[derive(Debug)]
pub(super) struct Producer {
    ring: Ring,
    /// Entries written, some of which may not be published yet.
    written: u32,
}

impl Producer {
    pub(super) fn new<E: Entry>(
        socket: BorrowedFd<'_>,
        page_offset: i64,
        offsets: libc::xdp_ring_offset,
        size: u32,
    ) -> io::Result<Self> {
        let ring = Ring::new::<E>(socket, page_offset, offsets, size)?;
        let written = ring.producer().load(Relaxed);
        Ok(Self { ring, written })
    }

    /// Writes an entry; false if the ring is full. The kernel sees it after
    /// [`publish`](Self::publish).
    pub(super) fn push<E: Entry>(&mut self, entry: E) -> bool {
        // Acquire: the kernel has read what stood there.
        let consumed = self.ring.consumer().load(Acquire);
        if self.written.wrapping_sub(consumed) >= self.ring.size {
            return false;
        }
        entry.store(self.ring.entry::<E>(self.written));
        self.written = self.written.wrapping_add(1);
        true
    }

    /// Shows the kernel all that was written.
    pub(super) fn publish(&self) {
        self.ring.producer().store(self.written, Release);
    }

    /// Published entries that the kernel has not taken yet.
    pub(super) fn waiting(&self) -> u32 {
        let published = self.ring.producer().load(Relaxed);
        published.wrapping_sub(self.ring.consumer().load(Acquire))
    }
}

/// A ring that the kernel writes.
#[derive(Debug)]
pub(super) struct Consumer {
    ring: Ring,
    read: u32,
}

impl Consumer {
    pub(super) fn new<E: Entry>(
        socket: BorrowedFd<'_>,
        page_offset: i64,
        offsets: libc::xdp_ring_offset,
        size: u32,
    ) -> io::Result<Self> {
        let ring = Ring::new::<E>(socket, page_offset, offsets, size)?;
        let read = ring.consumer().load(Relaxed);
        Ok(Self { ring, read })
    }

    /// Reads an entry. It is the process's until [`release`](Self::release).
    pub(super) fn pop<E: Entry>(&mut self) -> Option<E> {
        if self.ring.producer().load(Acquire) == self.read {
            return None;
        }
        let entry = E::load(self.ring.entry::<E>(self.read));
        self.read = self.read.wrapping_add(1);
        Some(entry)
    }

    /// Gives the kernel back the room of all that was read.
    pub(super) fn release(&self) {
        self.ring.consumer().store(self.read, Release);
    }
}
