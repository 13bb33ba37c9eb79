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

/// Offset of an IPv4 address in the frame that is to be another one every time; 0 for none.
#[unsafe(no_mangle)]
static RESTORE_SPREAD_AT: Global<u32> = Global::new(0);

/// How far that address is moved at most, one less than a power of two.
#[unsafe(no_mangle)]
static RESTORE_SPREAD_MASK: Global<u32> = Global::new(0);

/// State of the generator that moves it.
#[map]
static RESTORE_RANDOM: Array<u64> = Array::with_max_entries(1, 0);

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
    spread(ctx, frame)
}

/// Moves the address that is to be moved.
#[inline(always)]
fn spread(ctx: &XdpContext, frame: *const u8) -> Option<()> {
    const ADDRESS_LEN: usize = size_of::<u32>();
    let at = RESTORE_SPREAD_AT.load() as usize;
    if at == 0 {
        return Some(());
    }
    if at > restore::FRAME_BYTES_MAX - ADDRESS_LEN {
        return None;
    }
    let state = RESTORE_RANDOM.get_ptr_mut(0)?;
    // SAFETY: a live map element; the offset is within the map's value, as just checked.
    let address = unsafe {
        // The multiplier of PCG (O'Neill, 2014); the upper bits are the random ones.
        *state = (*state)
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let by = (*state >> 32) as u32 & RESTORE_SPREAD_MASK.load();
        let first = u32::from_be(frame.add(at).cast::<u32>().read_unaligned());
        first.wrapping_add(by)
    };
    store(ctx, at, address.to_be())
}
