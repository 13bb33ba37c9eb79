//! Memory that is shared with the kernel.
//!
//! The kernel, or a BPF program on another CPU, may read and write such memory at any time. So it is
//! only ever seen through atomics: whoever uses it needs no `unsafe`, and what races there are, are
//! between whole words.

use std::{
    ffi::c_void,
    io,
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64},
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// A mapping, which is undone when this is dropped.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<c_void>,
    len: usize,
}

// SAFETY: the mapping belongs to no thread, and all access is by atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of what is at `offset` of an object of the kernel's: a BPF map, or
    /// a ring of a socket.
    ///
    /// # Errors
    /// Fails when the kernel refuses, or `len` is 0.
    pub fn new(fd: impl AsFd, offset: i64, len: usize) -> io::Result<Self> {
        let size = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, where the kernel chooses, replaces none.
        let start = unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, fd, offset)? };
        Ok(Self { start, len })
    }

    /// Memory of this process's own, zeroed, to be shared with the kernel.
    ///
    /// # Errors
    /// Fails when there is none, or `len` is 0.
    pub fn anonymous(len: usize) -> io::Result<Self> {
        let size = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: as in `new`.
        let start = unsafe { mmap_anonymous(None, size, protection, MapFlags::MAP_PRIVATE)? };
        Ok(Self { start, len })
    }

    /// The address of its first byte, for the kernel to know.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// Bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes, which it never has.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `count` words of 64 bits, from `offset` bytes on.
    ///
    /// # Panics
    /// Panics when they do not lie within the mapping, or `offset` is not aligned.
    #[must_use]
    pub fn words(&self, offset: usize, count: usize) -> &[AtomicU64] {
        let start = self.place::<AtomicU64>(offset, count);
        // SAFETY: `place` has checked bounds and alignment; the memory lives as long as `self`, any
        // bytes are valid values, and nobody in this process sees it otherwise than by atomics.
        unsafe { std::slice::from_raw_parts(start, count) }
    }

    /// The same with words of 32 bits.
    ///
    /// # Panics
    /// As [`words`](Self::words).
    #[must_use]
    pub fn halves(&self, offset: usize, count: usize) -> &[AtomicU32] {
        let start = self.place::<AtomicU32>(offset, count);
        // SAFETY: as in `words`.
        unsafe { std::slice::from_raw_parts(start, count) }
    }

    fn place<T>(&self, offset: usize, count: usize) -> *const T {
        let end = count
            .checked_mul(size_of::<T>())
            .and_then(|bytes| bytes.checked_add(offset));
        assert!(
            end.is_some_and(|end| end <= self.len) && offset.is_multiple_of(align_of::<T>()),
            "{count} x {} bytes at {offset}: not within a mapping of {}",
            size_of::<T>(),
            self.len
        );
        // SAFETY: within the mapping, as just checked.
        unsafe { self.start.as_ptr().byte_add(offset).cast() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and no reference into it outlives it.
        if let Err(error) = unsafe { munmap(self.start, self.len) } {
            log::error!("cannot undo a mapping of {} bytes: {error}", self.len);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn both_views_show_the_same_bytes() {
        let mapping = Mapping::anonymous(64).unwrap();
        mapping.halves(8, 2)[1].store(7, Relaxed);
        let word = mapping.words(0, 8)[1].load(Relaxed);
        assert_eq!(word.to_ne_bytes()[4..], 7_u32.to_ne_bytes());
        assert_eq!((mapping.len(), mapping.is_empty()), (64, false));
    }

    #[test]
    #[should_panic(expected = "not within a mapping of 64")]
    fn nothing_is_seen_behind_the_end() {
        let mapping = Mapping::anonymous(64).unwrap();
        let _ = mapping.words(8, 8);
    }

    #[test]
    #[should_panic(expected = "not within")]
    fn words_are_aligned() {
        let mapping = Mapping::anonymous(64).unwrap();
        let _ = mapping.words(4, 1);
    }

    #[test]
    fn a_mapping_has_bytes() {
        assert!(Mapping::anonymous(0).is_err());
    }
}
