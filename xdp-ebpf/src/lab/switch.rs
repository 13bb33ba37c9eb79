//! The switch between the lab's namespaces, in the namespace that plays the Internet: what the
//! client sends joins the flood on the one link to the host, what the host sends goes to the
//! client or, if it answers a spoofed source, is counted and dropped.
use aya_ebpf::{
    Global,
    bindings::xdp_action,
    helpers::{bpf_get_prandom_u32, bpf_redirect},
    macros::{map, xdp},
    maps::{Array, PerCpuArray},
    programs::XdpContext,
};

use crate::{
    abi::{ATTACKER_MAC, counter, loss, tcp_flag},
    frame::{Segment, destination, tcp_segment},
};

/// Interface index of the link to the client.
#[unsafe(no_mangle)]
static CLIENT_IFINDEX: Global<u32> = Global::new(0);
/// Interface index of the link to the host.
#[unsafe(no_mangle)]
static UPLINK_IFINDEX: Global<u32> = Global::new(0);

#[map]
static LAB_COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(counter::COUNT, 0);

#[map]
static LAB_LOSS: Array<u32> = Array::with_max_entries(loss::COUNT, 0);

/// Probability that a frame from the client is lost, in units of 2^-32: the share of frames that
/// the link to the host loses at present.
#[map]
static LAB_SHARED_FATE: Array<u32> = Array::with_max_entries(1, 0);

/// On the link to the host: forwards to the client; counts and drops what goes to the attacker.
#[xdp]
pub(crate) fn lab_sink(ctx: XdpContext) -> u32 {
    let Some(mac) = destination(&ctx) else {
        return xdp_action::XDP_DROP;
    };
    if mac == ATTACKER_MAC {
        count(class(tcp_segment(&ctx)));
        return xdp_action::XDP_DROP;
    }
    count(counter::TO_CLIENT);
    // SAFETY: a plain helper call without pointers.
    unsafe { bpf_redirect(CLIENT_IFINDEX.load(), 0) as u32 }
}

/// On the link to the client: forwards to the host, except for what the loss rule takes.
#[xdp]
pub(crate) fn lab_loss(ctx: XdpContext) -> u32 {
    if tcp_segment(&ctx).is_some_and(|segment| is_lost(&segment).unwrap_or(false)) {
        count(counter::LOST);
        return xdp_action::XDP_DROP;
    }
    if shares_fate() {
        count(counter::LOST_IN_FLOOD);
        return xdp_action::XDP_DROP;
    }
    count(counter::TO_HOST);
    // SAFETY: a plain helper call without pointers.
    unsafe { bpf_redirect(UPLINK_IFINDEX.load(), 0) as u32 }
}

#[inline(always)]
fn class(segment: Option<Segment>) -> u32 {
    let Some(Segment { flags, .. }) = segment else {
        return counter::OTHER;
    };
    let syn_ack = tcp_flag::SYN | tcp_flag::ACK;
    if flags & tcp_flag::RST != 0 {
        counter::RST
    } else if flags & syn_ack == syn_ack {
        counter::SYN_ACK
    } else if flags & tcp_flag::SYN != 0 {
        counter::SYN
    } else {
        counter::OTHER
    }
}

/// Whether the rule takes this segment. Two CPUs may race for the last one; the lab's tests send
/// one connection at a time when they use a rule.
#[inline(always)]
fn is_lost(segment: &Segment) -> Option<bool> {
    let left = LAB_LOSS.get_ptr_mut(loss::DROP)?;
    // SAFETY: the pointer comes from the map lookup; a torn update is impossible for a u32.
    if unsafe { *left } == 0 {
        return Some(false);
    }
    let mask = *LAB_LOSS.get(loss::FLAGS_MASK)?;
    let flags = *LAB_LOSS.get(loss::FLAGS)?;
    let payload_matches = match *LAB_LOSS.get(loss::PAYLOAD)? {
        loss::PAYLOAD_EMPTY => !segment.has_payload,
        loss::PAYLOAD_SOME => segment.has_payload,
        _ => true,
    };
    if u32::from(segment.flags) & mask != flags || !payload_matches {
        return Some(false);
    }
    let skip = LAB_LOSS.get_ptr_mut(loss::SKIP)?;
    // SAFETY: as above, for both slots.
    unsafe {
        if *skip > 0 {
            *skip -= 1;
            return Some(false);
        }
        *left -= 1;
    }
    Some(true)
}

#[inline(always)]
fn shares_fate() -> bool {
    match LAB_SHARED_FATE.get(0) {
        // SAFETY: a plain helper call without pointers.
        Some(&probability) if probability != 0 => unsafe { bpf_get_prandom_u32() < probability },
        _ => false,
    }
}

#[inline(always)]
fn count(slot: u32) {
    if let Some(value) = LAB_COUNTERS.get_ptr_mut(slot) {
        // SAFETY: the pointer comes from a per-CPU map lookup, so no other CPU writes the slot.
        unsafe { *value += 1 };
    }
}
