//! Values that pass through a map on their way from one step to the next.
//!
//! The verifier follows every combination of branches separately for as long as it can tell their
//! results apart, and the combinations of TCP options multiply. It does not remember what is stored
//! in a map: behind [`forget`], all branches look alike and are followed as one.

use core::mem::MaybeUninit;

use aya_ebpf::{macros::map, maps::PerCpuArray};
use xdp_common::{
    answer::Draft,
    wire::{
        ipv6::Chain,
        tcp_options::{PackedOptions, Walk},
    },
};

use crate::payload::Progress;

/// What one packet needs.
pub(crate) struct Scratch {
    pub(crate) l3: MaybeUninit<usize>,
    pub(crate) walk: MaybeUninit<Walk>,
    pub(crate) options: MaybeUninit<PackedOptions>,
    pub(crate) draft: MaybeUninit<Draft>,
    pub(crate) chain: MaybeUninit<Chain>,
    pub(crate) progress: MaybeUninit<Progress>,
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
#[inline(always)]
pub(crate) fn forget<T: Copy>(place: &mut MaybeUninit<T>, value: T) -> T {
    place.write(value);
    let mut address = place.as_ptr();
    // SAFETY: the template moves a register to itself. As far as the compiler knows it may write to
    // memory, so that it cannot use `value` in place of what is read below.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) address, options(nostack, preserves_flags)) };
    // SAFETY: written above, and nothing else has been.
    unsafe { address.read() }
}
