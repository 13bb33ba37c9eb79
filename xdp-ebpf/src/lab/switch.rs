//! The switch between the lab's namespaces, in the namespace that plays the Internet: what the
//! client sends joins the flood on the one link to the host, what the host sends goes to the
//! client or, if it answers a spoofed source, is counted and dropped. Either way frames can be lost,
//! chosen ones or by chance.
use aya_ebpf::{
    Global,
    bindings::xdp_action,
    helpers::{bpf_get_prandom_u32, bpf_redirect},
    macros::{map, xdp},
    maps::{Array, PerCpuArray},
    programs::XdpContext,
};

use crate::{
    abi::{ATTACKER_MAC, counter, direction, loss, tcp_flag},
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
static LAB_LOSS: Array<u32> = Array::with_max_entries(direction::COUNT * loss::COUNT, 0);

/// Probability that a frame is lost, by direction, in units of 2^-32. During a flood, what the
/// client sends is lost with the probability with which the link to the host loses frames.
#[map]
static LAB_CHANCE: Array<u32> = Array::with_max_entries(direction::COUNT, 0);

/// On the link to the host: forwards to the client, except for what is lost; counts and drops what
/// goes to the attacker.
#[xdp]
pub(crate) fn lab_sink(ctx: XdpContext) -> u32 {
    let Some(mac) = destination(&ctx) else {
        return xdp_action::XDP_DROP;
    };
    if mac == ATTACKER_MAC {
        count(class(tcp_segment(&ctx)));
        return xdp_action::XDP_DROP;
    }
    if matches_rule(&ctx, direction::TO_CLIENT) || by_chance(direction::TO_CLIENT) {
        count(counter::LOST_TO_CLIENT);
        return xdp_action::XDP_DROP;
    }
    count(counter::TO_CLIENT);
    // SAFETY: a plain helper call without pointers.
    unsafe { bpf_redirect(CLIENT_IFINDEX.load(), 0) as u32 }
}

/// On the link to the client: forwards to the host, except for what is lost.
#[xdp]
pub(crate) fn lab_loss(ctx: XdpContext) -> u32 {
    if matches_rule(&ctx, direction::TO_HOST) {
        count(counter::LOST);
        return xdp_action::XDP_DROP;
    }
    if by_chance(direction::TO_HOST) {
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

/// Whether the rule of this direction takes the frame.
#[inline(always)]
fn matches_rule(ctx: &XdpContext, direction: u32) -> bool {
    let first = direction * loss::COUNT;
    // Asked before the frame is parsed: most labs have no rule, and a flood has many frames.
    if LAB_LOSS
        .get(first + loss::DROP)
        .is_none_or(|left| *left == 0)
    {
        return false;
    }
    tcp_segment(ctx).is_some_and(|segment| is_lost(&segment, first).unwrap_or(false))
}

/// Whether the rule whose slots begin at `first` takes this segment. Two CPUs may race for the last
/// one; the lab's tests send one connection at a time when they use a rule.
#[inline(always)]
fn is_lost(segment: &Segment, first: u32) -> Option<bool> {
    let mask = *LAB_LOSS.get(first + loss::FLAGS_MASK)?;
    let flags = *LAB_LOSS.get(first + loss::FLAGS)?;
    let payload_matches = match *LAB_LOSS.get(first + loss::PAYLOAD)? {
        loss::PAYLOAD_EMPTY => !segment.has_payload,
        loss::PAYLOAD_SOME => segment.has_payload,
        _ => true,
    };
    if u32::from(segment.flags) & mask != flags || !payload_matches {
        return Some(false);
    }
    let skip = LAB_LOSS.get_ptr_mut(first + loss::SKIP)?;
    let left = LAB_LOSS.get_ptr_mut(first + loss::DROP)?;
    // SAFETY: the pointers come from map lookups; a torn update is impossible for a u32.
    unsafe {
        if *skip > 0 {
            *skip -= 1;
            return Some(false);
        }
        *left = (*left).saturating_sub(1);
    }
    Some(true)
}

#[inline(always)]
fn by_chance(direction: u32) -> bool {
    match LAB_CHANCE.get(direction) {
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
