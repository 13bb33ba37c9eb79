//! Programs to time.
use anyhow::{Result, ensure};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use xdp_common::verdict::Action;

use super::paths::Path;
use crate::{bench::restored::Restored, fixtures::rig::Rig, object::Object};

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
            let (frame, spread) = (&path.frame, path.spread.unwrap_or_default());
            Some([
                Restored::new(frame, spread, rig.program()?.fd()?)?,
                Restored::new(frame, spread, floor)?,
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
                ns: time(levee.program()?, frame, XDP_TX, repeat)?,
                restored_floor_ns: Some(time(floor.program()?, frame, XDP_TX, repeat)?),
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
