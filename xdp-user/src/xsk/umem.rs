//! User memory: the frames that process and kernel hand to each other.

use std::{array, io, sync::atomic::Ordering::Relaxed};

use zerocopy::transmute;

use crate::mapping::Mapping;

/// Bytes of a frame's place. The kernel takes powers of two from 2,048 to a page.
pub(super) const CHUNK: usize = 2048;

/// What the kernel keeps in front of a received frame (`XDP_PACKET_HEADROOM`).
const HEADROOM: usize = 256;

/// The longest frame that is received, bytes: an MTU of 1,500 with tags, and then some. Clients that
/// open a connection send less; the kernel drops and counts longer ones.
pub const FRAME_MAX: usize = CHUNK - HEADROOM;

/// Chunks of [`CHUNK`] bytes, by number. All access is a copy, word by word: the kernel writes here
/// at any time, and frames of a handshake have some hundred bytes.
#[derive(Debug)]
pub(super) struct Umem {
    mapping: Mapping,
    chunks: u32,
}

impl Umem {
    pub(super) fn new(chunks: u32) -> io::Result<Self> {
        Ok(Self {
            mapping: Mapping::anonymous(chunks as usize * CHUNK)?,
            chunks,
        })
    }

    /// Where it is and how long, for the kernel.
    pub(super) fn region(&self) -> (u64, u64) {
        (self.mapping.address(), self.mapping.len() as u64)
    }

    /// Offset of a chunk.
    pub(super) const fn addr(chunk: u32) -> u64 {
        chunk as u64 * CHUNK as u64
    }

    /// The chunk that an offset lies in.
    pub(super) const fn chunk(&self, addr: u64) -> Option<u32> {
        let chunk = addr / CHUNK as u64;
        if chunk < self.chunks as u64 {
            Some(chunk as u32)
        } else {
            None
        }
    }

    /// Copies a frame out. `None` where there can be none.
    pub(super) fn read<'a>(
        &self,
        addr: u64,
        len: u32,
        frame: &'a mut [u8; CHUNK],
    ) -> Option<&'a [u8]> {
        let skipped = (addr % 8) as usize;
        let (start, len) = (addr as usize - skipped, len as usize);
        if len > CHUNK - 8 {
            return None;
        }
        let words = (skipped + len).div_ceil(8);
        if start.checked_add(words * 8)? > self.mapping.len() {
            return None;
        }
        for (to, cell) in frame
            .chunks_exact_mut(8)
            .zip(self.mapping.words(start, words))
        {
            let bytes: [u8; 8] = transmute!(cell.load(Relaxed));
            to.copy_from_slice(&bytes);
        }
        Some(&frame[skipped..skipped + len])
    }

    /// Copies a frame to the front of a chunk. Bytes that do not fit are left out: no frame that is
    /// sent is as long.
    pub(super) fn write(&self, chunk: u32, frame: &[u8]) {
        let cells = self.mapping.words(Self::addr(chunk) as usize, CHUNK / 8);
        for (cell, from) in cells.iter().zip(frame.chunks(8)) {
            let bytes: [u8; 8] = array::from_fn(|byte| from.get(byte).copied().unwrap_or(0));
            cell.store(transmute!(bytes), Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_at_any_offset() {
        let umem = Umem::new(2).unwrap();
        let frame: Vec<u8> = (0..1514_u32).map(|n| (n % 251) as u8).collect();
        umem.write(1, &frame);
        let mut copy = [0; CHUNK];
        for skipped in 0..9 {
            let addr = Umem::addr(1) + skipped;
            assert_eq!(umem.chunk(addr), Some(1));
            let len = frame.len() as u32 - skipped as u32;
            let read = umem.read(addr, len, &mut copy);
            assert_eq!(read, Some(&frame[skipped as usize..]));
        }
    }

    #[test]
    fn nothing_is_read_from_outside() {
        let umem = Umem::new(1).unwrap();
        let mut copy = [0; CHUNK];
        assert_eq!(umem.chunk(CHUNK as u64), None);
        assert_eq!(umem.read(CHUNK as u64 - 8, 9, &mut copy), None);
        assert_eq!(umem.read(u64::MAX - 7, 60, &mut copy), None);
        assert_eq!(umem.read(0, CHUNK as u32, &mut copy), None);
    }
}
