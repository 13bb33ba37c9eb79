//! SYN-ACKs that the controller is told of, so that it can send them again: a cookie leaves nothing
//! behind that could, and a client whose ACK was lost may have nothing to say before the server does.

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    helpers::bpf_xdp_load_bytes,
    macros::map,
    maps::{PerCpuArray, RingBuf},
    programs::XdpContext,
};
use xdp_common::{
    abi::{ANSWERED_FRAME_MAX, ANSWERED_PER_SECOND_MAX, Answered, Control},
    wire::Frame as _,
};

use crate::packet::Packet;

/// Sized at load: nothing is spent where nothing is spliced.
#[map]
static ANSWERED: RingBuf = RingBuf::with_byte_size(4096, 0);

/// What was told of in one second.
struct Quota {
    clock_s: u32,
    count: u32,
}

#[map]
static ANSWERED_QUOTA: PerCpuArray<Quota> = PerCpuArray::with_max_entries(1, 0);

/// Tells of the SYN-ACK that the packet has become, unless this CPU has told of as many as it may
/// this second, or nobody has read what was told before: in a flood, most are nobody's.
#[inline(always)]
pub(crate) fn tell(ctx: &XdpContext, control: &Control) {
    let len = Packet::of_xdp(ctx).len();
    if len > ANSWERED_FRAME_MAX || !take(control.clock_s) {
        return;
    }
    // The verifier wants to see that this is not 0.
    let len = 1 + (len.wrapping_sub(1) & (ANSWERED_FRAME_MAX - 1));
    let Some(mut record) = ANSWERED.reserve::<Answered>(0) else {
        return;
    };
    let told = record.as_mut_ptr();
    // SAFETY: the record is memory of this size that is ours until it is submitted; the helper
    // writes `len` bytes at most.
    let failed = unsafe {
        (*told).ifindex = ctx.ingress_ifindex() as u32;
        (*told).len = len as u32;
        bpf_xdp_load_bytes(ctx.ctx, 0, (&raw mut (*told).frame).cast(), len as u32)
    };
    if failed == 0 {
        // Nobody waits for it: it is read before the next segment of a client.
        record.submit(u64::from(BPF_RB_NO_WAKEUP));
    } else {
        record.discard(u64::from(BPF_RB_NO_WAKEUP));
    }
}

/// Counts one more in the second `clock_s`. False if that is one too many.
#[inline(always)]
fn take(clock_s: u32) -> bool {
    let Some(quota) = ANSWERED_QUOTA.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: the element is this CPU's, and one packet is judged at a time on a CPU.
    let quota = unsafe { &mut *quota };
    if quota.clock_s != clock_s {
        *quota = Quota { clock_s, count: 0 };
    }
    quota.count += 1;
    quota.count <= ANSWERED_PER_SECOND_MAX
}
