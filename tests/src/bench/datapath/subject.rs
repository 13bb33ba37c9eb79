//! Programs to time.
use anyhow::{Context as _, Result, ensure};
use aya::{
    maps::{Array, MapData, ProgramArray},
    programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp},
};
use xdp_common::verdict::Action;

use super::paths::{Path, Spread};
use crate::{
    abi::restore::{FRAME_BYTES_MAX, FRAME_WORDS},
    fixtures::rig::Rig,
    object::Object,
};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;

/// What the floors run on: the shortest frame there is.
const FLOOR_FRAME: [u8; 60] = [0; 60];

/// The programs that only drop or only send back.
pub(super) struct Floors {
    object: Object,
}

impl Floors {
    pub(super) fn load() -> Result<Self> {
        let object = Object::load(&[])?;
        Ok(Self { object })
    }

    pub(super) fn drop_ns(&mut self, repeat: u32) -> Result<f64> {
        time(self.object.xdp("lab_drop")?, &FLOOR_FRAME, XDP_DROP, repeat)
    }

    pub(super) fn tx_ns(&mut self, repeat: u32) -> Result<f64> {
        time(self.object.xdp("lab_tx")?, &FLOOR_FRAME, XDP_TX, repeat)
    }
}

/// A path with what is needed to time it.
pub(super) struct Subject {
    pub(super) path: Path,
    /// For packets that the data path changes: the data path and the floor behind a program that
    /// restores the packet.
    restored: Option<[Restored; 2]>,
}

/// Times per packet, nanoseconds.
pub(super) struct Time {
    pub(super) ns: f64,
    /// For restored packets, where `ns` includes the restoring: the floor, restoring included.
    pub(super) restored_floor_ns: Option<f64>,
}

impl Subject {
    pub(super) fn prepare(path: Path, rig: &mut Rig, floors: &mut Floors) -> Result<Self> {
        let restored = if path.is_changed() {
            let floor = floors.object.xdp("lab_tx")?.fd()?;
            Some([
                Restored::new(&path, rig.program()?.fd()?)?,
                Restored::new(&path, floor)?,
            ])
        } else {
            None
        };
        Ok(Self { path, restored })
    }

    /// Times it, and makes sure that every single packet got the path's verdict.
    pub(super) fn time(&mut self, rig: &mut Rig, repeat: u32) -> Result<Time> {
        let slot = self.path.verdict.slot();
        let before = rig.iface_packets()?[slot];
        let time = self.run(rig, repeat)?;
        let judged = rig.iface_packets()?[slot] - before;
        ensure!(
            judged == u64::from(repeat),
            "{judged} of {repeat} packets were judged {}",
            self.path.verdict.label()
        );
        Ok(time)
    }

    fn run(&mut self, rig: &mut Rig, repeat: u32) -> Result<Time> {
        let frame = &self.path.frame;
        if let Some([levee, floor]) = &mut self.restored {
            return Ok(Time {
                ns: levee.time(frame, repeat)?,
                restored_floor_ns: Some(floor.time(frame, repeat)?),
            });
        }
        let action = match self.path.verdict.action() {
            Action::Pass => XDP_PASS,
            Action::Drop => XDP_DROP,
            Action::Reply => XDP_TX,
            Action::Redirect => XDP_REDIRECT,
        };
        Ok(Time {
            ns: time(rig.program()?, frame, action, repeat)?,
            restored_floor_ns: None,
        })
    }
}

/// A program behind one that restores the packet.
struct Restored {
    object: Object,
    /// Kept, for the kernel empties a program array that no process holds.
    _program: ProgramArray<MapData>,
}

impl Restored {
    fn new(path: &Path, program: &ProgramFd) -> Result<Self> {
        let frame = &path.frame;
        ensure!(
            frame.len() <= FRAME_BYTES_MAX,
            "a frame of {} bytes cannot be restored, only up to {FRAME_BYTES_MAX}",
            frame.len()
        );
        let Spread { at, mask } = path.spread.unwrap_or_default();
        let mut object = Object::load(&[
            ("RESTORE_LENGTH", frame.len() as u32),
            ("RESTORE_SPREAD_AT", at),
            ("RESTORE_SPREAD_MASK", mask),
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
        object.xdp("lab_restore")?;
        programs
            .set(0, program, 0)
            .context("the kernel does not let lab_restore tail-call the program under test")?;
        Ok(Self {
            object,
            _program: programs,
        })
    }

    fn time(&mut self, frame: &[u8], repeat: u32) -> Result<f64> {
        time(self.object.xdp("lab_restore")?, frame, XDP_TX, repeat)
    }
}

/// The mean time of `repeat` runs on one frame, as the kernel measures it: whole nanoseconds.
fn time(program: &Xdp, frame: &[u8], action: u32, repeat: u32) -> Result<f64> {
    let options = TestRunOptions {
        data_in: Some(frame),
        repeat,
        ..TestRunOptions::default()
    };
    let result = program.test_run(options)?;
    ensure!(
        result.return_value == action,
        "the program returned {}, expected {action}",
        result.return_value
    );
    Ok(result.duration.as_nanos() as f64)
}
