//! Programs that do next to nothing: the floors that benchmarks compare with.
use aya_ebpf::{
    Global, bindings::xdp_action, helpers::bpf_redirect, macros::xdp, programs::XdpContext,
};

use crate::frame::swap_macs;

/// Passes every frame: on veth, a peer needs some XDP program before `XDP_TX` reaches it.
#[xdp]
pub(crate) fn lab_pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// The `XDP_DROP` floor: no work at all.
#[xdp]
pub(crate) fn lab_drop(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// The `XDP_TX` floor: swaps the MAC addresses, as every reply must, and sends the frame back.
#[xdp]
pub(crate) fn lab_tx(ctx: XdpContext) -> u32 {
    match swap_macs(&ctx) {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_DROP,
    }
}

/// Where [`lab_out`] sends frames, an interface index in the namespace of the caller.
#[unsafe(no_mangle)]
static OUT_IFINDEX: Global<u32> = Global::new(0);

/// Sends the frame out.
#[xdp]
pub(crate) fn lab_out(_ctx: XdpContext) -> u32 {
    // SAFETY: a plain helper call without pointers.
    unsafe { bpf_redirect(OUT_IFINDEX.load(), 0) as u32 }
}
