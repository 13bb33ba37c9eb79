//! TCP options in the data path: common layouts are matched whole, all others are walked in the
//! kernel's own loop.

use xdp_common::wire::{
    checksum::Sum,
    tcp::Segment,
    tcp_options::{self, PackedOptions, Walk},
};

use crate::{
    loops::{self, Steps},
    packet::Packet,
    scratch::Scratch,
};

/// The segment's options, and their sum where it came for nothing.
#[inline(always)]
pub(crate) fn parse(
    packet: &Packet,
    segment: &Segment,
    scratch: &mut Scratch,
) -> (PackedOptions, Option<Sum>) {
    match tcp_options::common_layout(packet, segment) {
        Some((options, sum)) => (options, Some(sum)),
        None => {
            let walk = scratch.walk.write(Walk::new(segment));
            loops::run(&mut State { packet, walk });
            (walk.options().into(), None)
        }
    }
}

struct State<'p> {
    packet: &'p Packet,
    walk: &'p mut Walk,
}

impl Steps for State<'_> {
    const MAX: u32 = Walk::STEPS_MAX;

    #[inline(always)]
    fn step(&mut self) -> bool {
        self.walk.step(self.packet)
    }
}
