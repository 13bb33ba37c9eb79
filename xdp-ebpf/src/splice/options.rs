//! Options in a layout that is not common are translated in the kernel's own loop.

use core::mem::MaybeUninit;

use xdp_common::{splice::translate::Walk, wire::checksum::Change};

use crate::{
    loops::{self, Steps},
    packet::Packet,
};

/// Makes all steps of a walk.
#[inline(always)]
pub(crate) fn translate(packet: &mut Packet, walk: Walk, place: &mut MaybeUninit<Walk>) -> Change {
    let walk = place.write(walk);
    loops::run(&mut State { packet, walk });
    walk.change()
}

struct State<'p> {
    packet: &'p mut Packet,
    walk: &'p mut Walk,
}

impl Steps for State<'_> {
    const MAX: u32 = Walk::STEPS_MAX;

    #[inline(always)]
    fn step(&mut self) -> bool {
        self.walk.step(self.packet)
    }
}
