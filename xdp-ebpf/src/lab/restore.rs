//! For timing programs that change their packet: `BPF_PROG_TEST_RUN` repeats a program without
//! resetting the packet, so that only the first run of an answering program would meet a SYN.
use aya_ebpf::{
    Global,
    bindings::xdp_action,
    helpers::bpf_ktime_get_ns,
    macros::{map, xdp},
    maps::{Array, ProgramArray},
    programs::XdpContext,
};

use crate::{abi::restore, frame::store};

/// Length of the frame in bytes, 8 to `FRAME_BYTES_MAX`.
#[unsafe(no_mangle)]
static RESTORE_LENGTH: Global<u32> = Global::new(0);

#[map]
static RESTORE_FRAME: Array<[u64; restore::FRAME_WORDS]> = Array::with_max_entries(1, 0);

#[map]
static RESTORE_PROGRAM: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Overwrites the packet with the frame and goes on in the program under test.
#[xdp]
pub(crate) fn lab_restore(ctx: XdpContext) -> u32 {
    if copy(&ctx).is_some() {
        // The copy is still in the CPU's store buffer, and reading it at other widths than it was
        // written would stall, which no packet from a NIC does. Reading the clock takes longer than
        // the stores, and the fence in it keeps later loads from starting early.
        // SAFETY: no arguments.
        let _now = unsafe { bpf_ktime_get_ns() };
        // SAFETY: nothing here waits to be dropped.
        unsafe { RESTORE_PROGRAM.tail_call(&ctx, 0) };
    }
    // No frame, no program, or a packet of another length: nothing that could be timed.
    xdp_action::XDP_ABORTED
}

/// Copies a word at a time; the last one overlaps the one before it when the length is not a
/// multiple of a word.
#[inline(always)]
fn copy(ctx: &XdpContext) -> Option<()> {
    const WORD: usize = size_of::<u64>();
    let frame = RESTORE_FRAME.get_ptr(0)?.cast::<u8>();
    let length = RESTORE_LENGTH.load() as usize;
    if !(WORD..=restore::FRAME_BYTES_MAX).contains(&length) {
        return None;
    }
    for index in 0..restore::FRAME_WORDS {
        let offset = (index * WORD).min(length - WORD);
        // SAFETY: `offset + WORD` is at most `FRAME_BYTES_MAX`, the size of the map's value.
        let word = unsafe { frame.add(offset).cast::<u64>().read_unaligned() };
        store(ctx, offset, word)?;
    }
    Some(())
}
