//! Stand-in for VLAN devices on kernels built without them: TC programs that add a tag to what an
//! interface sends and take one off what it received. Attached once per tag.
use aya_ebpf::{
    EbpfContext as _, Global,
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::{bpf_skb_vlan_pop, bpf_skb_vlan_push},
    macros::classifier,
    programs::TcContext,
};

/// Tag protocol, 0x8100 (802.1Q) or 0x88a8 (802.1ad).
#[unsafe(no_mangle)]
static VLAN_PROTOCOL: Global<u32> = Global::new(0x8100);
/// VLAN id, 1 to 4094.
#[unsafe(no_mangle)]
static VLAN_ID: Global<u32> = Global::new(0);

/// Adds the tag.
#[classifier]
pub(crate) fn lab_vlan_push(ctx: TcContext) -> i32 {
    let protocol = (VLAN_PROTOCOL.load() as u16).to_be();
    // SAFETY: `ctx` is the context this program was called with; no packet pointer is held.
    let pushed = unsafe { bpf_skb_vlan_push(ctx.as_ptr().cast(), protocol, VLAN_ID.load() as u16) };
    if pushed == 0 {
        TC_ACT_UNSPEC
    } else {
        TC_ACT_SHOT
    }
}

/// Takes off the outermost tag. A frame without one was not sent on this VLAN: drop it, as an
/// interface that carries only tagged traffic would.
#[classifier]
pub(crate) fn lab_vlan_pop(ctx: TcContext) -> i32 {
    // SAFETY: `ctx` is the context this program was called with, valid for its duration.
    let present = unsafe { (*ctx.skb.skb).vlan_present };
    if present == 0 {
        return TC_ACT_SHOT;
    }
    // SAFETY: as above; no packet pointer is held.
    let popped = unsafe { bpf_skb_vlan_pop(ctx.as_ptr().cast()) };
    if popped == 0 {
        TC_ACT_UNSPEC
    } else {
        TC_ACT_SHOT
    }
}
