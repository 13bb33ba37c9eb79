//! Values that pass through a map on their way from one step to the next.
//!
//! The verifier follows every combination of branches separately for as long as it can tell their
//! results apart, and the combinations of TCP options multiply. It does not remember what is stored
//! in a map: behind [`forget`], all branches look alike and are followed as one.

use core::mem::MaybeUninit;

use aya_ebpf::{macros::map, maps::PerCpuArray};
use xdp_common::{
    answer::Draft,
    splice::translate,
    wire::{
        ipv6::Chain,
        tcp_options::{PackedOptions, Walk},
    },
};

use crate::{handover::Handover, payload::Progress};

/// What one packet needs.
pub(crate) struct Scratch {
    pub(crate) handover: Handover,
    pub(crate) l3: [u64; 1],
    pub(crate) options: [u64; PackedOptions::WORDS],
    pub(crate) draft: [u64; Draft::WORDS],
    pub(crate) walk: MaybeUninit<Walk>,
    pub(crate) chain: MaybeUninit<Chain>,
    pub(crate) progress: MaybeUninit<Progress>,
    pub(crate) translation: MaybeUninit<translate::Walk>,
}

#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's scratch space. To be called once per packet, since it hands out a unique reference.
/// An array's first element always exists; the verifier wants it asked for all the same.
#[inline(always)]
pub(crate) fn get() -> Option<&'static mut Scratch> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: the element is this CPU's, one packet is judged at a time on a CPU (XDP and TC
    // programs do not interrupt each other), and the fields accept any bytes.
    Some(unsafe { &mut *scratch })
}

/// `value`, of which the verifier knows nothing any more.
///
/// Whole words, volatile: so the compiler neither uses `value` in place of what is read, nor reads
/// at another width than was written, which the CPU could not serve from its store buffer.
#[inline(always)]
pub(crate) fn forget<const WORDS: usize>(
    place: &mut [u64; WORDS],
    value: [u64; WORDS],
) -> [u64; WORDS] {
    for (place, word) in place.iter_mut().zip(value) {
        // SAFETY: a reference is valid for writes.
        unsafe { (&raw mut *place).write_volatile(word) };
    }
    // SAFETY: a reference is valid for reads.
    core::array::from_fn(|i| unsafe { (&raw const place[i]).read_volatile() })
}
