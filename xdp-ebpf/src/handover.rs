//! A packet on its way from one program to the next: what the first has found out about it, so that
//! the second need not parse it again.

use aya_ebpf::{macros::map, maps::ProgramArray, programs::XdpContext};
use xdp_common::{
    abi::JUMPS_MAX,
    cookie::Family,
    tuple::{Addr, Tuple},
    wire::{
        OFFSET_MASK,
        tcp::{Flags, Segment},
    },
};

use crate::{case::L3_MASK, scratch::Scratch};

/// The programs that packets are handed over to. The controller fills it when it loads them.
#[map]
static JUMPS: ProgramArray = ProgramArray::with_max_entries(JUMPS_MAX, 0);

/// A segment, and whose it is. Any bytes are valid, for it stays behind in a map.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Handover {
    src: Addr,
    dst: Addr,
    src_port: u16,
    dst_port: u16,
    seq: u32,
    ack: u32,
    flags: u16,
    /// Id of the service that the segment is for, or slot of the target that it comes from.
    place: u16,
    l3: u32,
    l4: u32,
    option_words: u32,
    payload_len: u32,
    is_v6: u32,
    is_fragment: u32,
}

impl Handover {
    #[inline(always)]
    pub(crate) const fn new(
        family: Family,
        l3: usize,
        segment: &Segment,
        place: u16,
        whole: bool,
    ) -> Self {
        let Tuple {
            src,
            dst,
            src_port,
            dst_port,
        } = segment.tuple;
        Self {
            src,
            dst,
            src_port,
            dst_port,
            seq: segment.seq,
            ack: segment.ack,
            flags: segment.flags.bits(),
            place,
            l3: l3 as u32,
            l4: segment.l4 as u32,
            option_words: segment.option_words as u32,
            payload_len: segment.payload_len as u32,
            is_v6: matches!(family, Family::V6) as u32,
            is_fragment: !whole as u32,
        }
    }

    /// An ICMP message, of which only the place is known.
    #[inline(always)]
    pub(crate) fn of_icmp(scratch: &mut Scratch, family: Family, l3: usize) {
        scratch.handover.is_v6 = u32::from(family == Family::V6);
        scratch.handover.l3 = l3 as u32;
    }

    #[inline(always)]
    pub(crate) const fn family(&self) -> Family {
        if self.is_v6 == 0 {
            Family::V4
        } else {
            Family::V6
        }
    }

    #[inline(always)]
    pub(crate) const fn l3(&self) -> usize {
        self.l3 as usize & L3_MASK
    }

    #[inline(always)]
    pub(crate) const fn place(&self) -> u16 {
        self.place
    }

    #[inline(always)]
    pub(crate) const fn is_fragment(&self) -> bool {
        self.is_fragment != 0
    }

    /// The segment, its offsets bounded where the verifier can see it.
    #[inline(always)]
    pub(crate) const fn segment(&self) -> Segment {
        Segment {
            tuple: Tuple {
                src: self.src,
                dst: self.dst,
                src_port: self.src_port,
                dst_port: self.dst_port,
            },
            seq: self.seq,
            ack: self.ack,
            flags: Flags::from_bits(self.flags),
            l4: self.l4 as usize & OFFSET_MASK,
            option_words: self.option_words as usize & 15,
            payload_len: self.payload_len as usize & 0xffff,
        }
    }
}

/// Goes on in the program in this slot. Returns only if there is none.
#[inline(always)]
pub(crate) fn jump(ctx: &XdpContext, slot: u32) {
    // SAFETY: nothing here waits to be dropped.
    unsafe { JUMPS.tail_call(ctx, slot) };
}
