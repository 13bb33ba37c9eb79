//! A program that always meets the same frame, whatever became of it the last time.

use anyhow::{Context as _, Result, ensure};
use aya::{
    maps::{Array, MapData, ProgramArray},
    programs::{ProgramFd, Xdp},
};

use crate::{
    abi::restore::{FRAME_BYTES_MAX, FRAME_WORDS},
    object::Object,
};

/// An IPv4 address that is moved by a random number, so that every packet is of another connection.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::bench) struct Spread {
    /// Its offset in the frame; 0 for none.
    pub(in crate::bench) at: u32,
    /// The most that it is moved by.
    pub(in crate::bench) mask: u32,
}

/// A program behind one that restores the frame.
pub(in crate::bench) struct Restored {
    pub(in crate::bench) object: Object,
    /// Kept, for the kernel empties a program array that no process holds.
    _program: ProgramArray<MapData>,
}

impl Restored {
    pub(in crate::bench) fn new(frame: &[u8], spread: Spread, program: &ProgramFd) -> Result<Self> {
        ensure!(
            frame.len() <= FRAME_BYTES_MAX,
            "a frame of {} bytes cannot be restored, only up to {FRAME_BYTES_MAX}",
            frame.len()
        );
        let mut object = Object::load(&[
            ("RESTORE_LENGTH", frame.len() as u32),
            ("RESTORE_SPREAD_AT", spread.at),
            ("RESTORE_SPREAD_MASK", spread.mask),
        ])?;
        let mut words = [0_u64; FRAME_WORDS];
        for (word, bytes) in words.iter_mut().zip(frame.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(whole);
        }
        let map = |name| format!("the lab's object has no map {name}");
        let ebpf = object.ebpf();
        let mut frames: Array<_, [u64; FRAME_WORDS]> = ebpf
            .map_mut("RESTORE_FRAME")
            .with_context(|| map("RESTORE_FRAME"))?
            .try_into()?;
        frames.set(0, words, 0)?;
        let mut programs: ProgramArray<MapData> = ebpf
            .take_map("RESTORE_PROGRAM")
            .with_context(|| map("RESTORE_PROGRAM"))?
            .try_into()?;
        object.xdp(NAME)?;
        programs
            .set(0, program, 0)
            .context("the kernel does not let lab_restore tail-call the program behind it")?;
        Ok(Self {
            object,
            _program: programs,
        })
    }

    /// Both programs, as one.
    pub(in crate::bench) fn program(&mut self) -> Result<&mut Xdp> {
        self.object.xdp(NAME)
    }
}

/// What it is called.
pub(in crate::bench) const NAME: &str = "lab_restore";
