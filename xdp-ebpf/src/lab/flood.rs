//! The flood generator: run with `BPF_PROG_TEST_RUN` and live frames, it turns copies of one
//! template frame into segments of a flood and redirects them into a veth.
//!
//! Live frames are recycled without being reset, and whoever received one may have turned it into
//! an answer. So every frame starts as a fresh copy of the template; then the varying fields are
//! filled in, and the checksums completed from sums of the constant part that userspace computed.
use core::mem::size_of;

use aya_ebpf::{
    Global,
    bindings::xdp_action,
    helpers::{bpf_ktime_get_ns, bpf_redirect},
    macros::{map, xdp},
    maps::Array,
    programs::XdpContext,
};

use crate::{
    abi::{
        flood,
        flood::{TEMPLATE_BYTES_MAX, TEMPLATE_WORDS},
    },
    frame::store,
};

/// Where the frames go, an interface index in the namespace of the caller.
#[unsafe(no_mangle)]
static FLOOD_IFINDEX: Global<u32> = Global::new(0);
/// 4 or 6.
#[unsafe(no_mangle)]
static FLOOD_IP_VERSION: Global<u32> = Global::new(4);
/// Not 0: the acknowledgement number is random too (an ACK flood).
#[unsafe(no_mangle)]
static FLOOD_RANDOM_ACK: Global<u32> = Global::new(0);
/// Sum of the template's IPv4 header with source and checksum zero.
#[unsafe(no_mangle)]
static FLOOD_IP_SUM: Global<u32> = Global::new(0);
/// Sum of the template's pseudo header and TCP header with every varying field zero.
#[unsafe(no_mangle)]
static FLOOD_TCP_SUM: Global<u32> = Global::new(0);
/// Length of the template, at least 8 bytes.
#[unsafe(no_mangle)]
static FLOOD_LENGTH: Global<u32> = Global::new(0);
/// Time from one frame to the next in units of 2^-[`TIME_SHIFT`] ns; 0 sends as fast as it can.
#[unsafe(no_mangle)]
static FLOOD_INTERVAL: Global<u64> = Global::new(0);
/// Frames in all.
#[unsafe(no_mangle)]
static FLOOD_COUNT_MAX: Global<u64> = Global::new(0);
/// Makes two runs with the same seed send the same segments.
#[unsafe(no_mangle)]
static FLOOD_SEED: Global<u64> = Global::new(0);

/// Slot `flood::SENT`: frames sent so far. Slot `flood::DUE`: when the next one is, in the unit of
/// `FLOOD_INTERVAL`. One thread drives the generator, so plain updates are enough.
#[map]
static FLOOD_STATE: Array<u64> = Array::with_max_entries(flood::COUNT, 0);

/// The frame with every varying field zero.
#[map]
static FLOOD_TEMPLATE: Array<[u64; TEMPLATE_WORDS]> = Array::with_max_entries(1, 0);

const IP_OFFSET: usize = 14;
const IPV4_CHECKSUM: usize = IP_OFFSET + 10;
const IPV4_SOURCE: usize = IP_OFFSET + 12;
const IPV4_TCP: usize = IP_OFFSET + 20;
const IPV6_SOURCE: usize = IP_OFFSET + 8;
const IPV6_TCP: usize = IP_OFFSET + 40;
const TCP_SEQ: usize = 4;
const TCP_ACK: usize = 8;
const TCP_CHECKSUM: usize = 16;

/// 198.18.0.0/15, the benchmark network of RFC 2544.
const SOURCE_V4_NET: u32 = 0xc612_0000;
const SOURCE_V4_HOST_MASK: u32 = 0x0001_ffff;
/// 2001:db8:f::/64, documentation addresses (RFC 3849); the interface identifier is random.
const SOURCE_V6_NET: [u8; 8] = [0x20, 0x01, 0x0d, 0xb8, 0x00, 0x0f, 0x00, 0x00];
/// Clients use ports above the well-known ones.
const PORT_MIN: u32 = 1024;
const PORT_COUNT: u32 = 65_536 - PORT_MIN;

/// Called over and over; sends a frame when one is due and otherwise lets time pass. So the pace is
/// even to within a batch of calls, which no sequence of short runs from userspace achieves: each
/// run sets up memory for some 20 us first.
#[xdp]
pub(crate) fn lab_flood(ctx: XdpContext) -> u32 {
    match next_number().map(|number| rewrite(&ctx, number)) {
        // SAFETY: a plain helper call without pointers.
        Some(Some(())) => unsafe { bpf_redirect(FLOOD_IFINDEX.load(), 0) as u32 },
        _ => xdp_action::XDP_DROP,
    }
}

/// The number of the frame to send now, from 1; `None` when none is due, or none is left.
#[inline(always)]
fn next_number() -> Option<u64> {
    let sent = FLOOD_STATE.get_ptr_mut(flood::SENT)?;
    // SAFETY: the pointer comes from the map lookup and only one thread runs the generator.
    let number = unsafe { *sent } + 1;
    if number > FLOOD_COUNT_MAX.load() || !is_due()? {
        return None;
    }
    // SAFETY: as above.
    unsafe { *sent = number };
    Some(number)
}

#[inline(always)]
fn is_due() -> Option<bool> {
    let interval = FLOOD_INTERVAL.load();
    if interval == 0 {
        return Some(true);
    }
    let due = FLOOD_STATE.get_ptr_mut(flood::DUE)?;
    // SAFETY: a plain helper call without pointers.
    let now = unsafe { bpf_ktime_get_ns() } << flood::TIME_SHIFT;
    // SAFETY: the pointer comes from the map lookup and only one thread runs the generator.
    let next = unsafe { *due };
    if now < next {
        return Some(false);
    }
    // A generator that was held up gives up what it missed: a longer burst would overrun the
    // receive ring at a rate far above the one asked for.
    let earliest = now.saturating_sub(interval * flood::BURST_MAX);
    // SAFETY: as above.
    unsafe { *due = next.max(earliest) + interval };
    Some(true)
}

#[inline(always)]
fn rewrite(ctx: &XdpContext, number: u64) -> Option<()> {
    let first = mix(FLOOD_SEED.load().wrapping_add(number.wrapping_mul(GOLDEN)));
    let second = mix(first);
    copy_template(ctx)?;
    if FLOOD_IP_VERSION.load() == 4 {
        rewrite_v4(ctx, first, second)
    } else {
        rewrite_v6(ctx, first, second)
    }
}

/// Overwrites the frame with the template, a word at a time; the last word overlaps the one before
/// it when the length is not a multiple of a word.
#[inline(always)]
fn copy_template(ctx: &XdpContext) -> Option<()> {
    const WORD: usize = size_of::<u64>();
    let template = FLOOD_TEMPLATE.get_ptr(0)?.cast::<u8>();
    let length = FLOOD_LENGTH.load() as usize;
    if !(WORD..=TEMPLATE_BYTES_MAX).contains(&length) {
        return None;
    }
    for index in 0..TEMPLATE_WORDS {
        let offset = (index * WORD).min(length - WORD);
        // SAFETY: `offset + WORD` is at most `TEMPLATE_BYTES_MAX`, the size of the map's value.
        let word = unsafe { template.add(offset).cast::<u64>().read_unaligned() };
        store(ctx, offset, word)?;
    }
    Some(())
}

#[inline(always)]
fn rewrite_v4(ctx: &XdpContext, first: u64, second: u64) -> Option<()> {
    let source = (SOURCE_V4_NET | (second as u32 & SOURCE_V4_HOST_MASK)).to_be();
    store(ctx, IPV4_SOURCE, source)?;
    store(
        ctx,
        IPV4_CHECKSUM,
        checksum(FLOOD_IP_SUM.load() + halves(source)),
    )?;
    rewrite_tcp(ctx, IPV4_TCP, halves(source), first, second)
}

#[inline(always)]
fn rewrite_v6(ctx: &XdpContext, first: u64, second: u64) -> Option<()> {
    let (high, low) = ((second >> 32) as u32, second as u32);
    store(ctx, IPV6_SOURCE, SOURCE_V6_NET)?;
    store(ctx, IPV6_SOURCE + 8, [high, low])?;
    rewrite_tcp(ctx, IPV6_TCP, halves(high) + halves(low), first, second)
}

/// Fills the TCP fields; `address_sum` is the varying part of the source address.
#[inline(always)]
fn rewrite_tcp(
    ctx: &XdpContext,
    tcp: usize,
    address_sum: u32,
    first: u64,
    second: u64,
) -> Option<()> {
    let port = (PORT_MIN + (((first as u32 & 0xffff) * PORT_COUNT) >> 16)) as u16;
    let port = port.to_be();
    let seq = (first >> 32) as u32;
    let mut sum = FLOOD_TCP_SUM.load() + address_sum + u32::from(port) + halves(seq);
    store(ctx, tcp, port)?;
    store(ctx, tcp + TCP_SEQ, seq)?;
    if FLOOD_RANDOM_ACK.load() != 0 {
        let ack = (second >> 32) as u32;
        store(ctx, tcp + TCP_ACK, ack)?;
        sum += halves(ack);
    }
    store(ctx, tcp + TCP_CHECKSUM, checksum(sum))
}

/// Odd constant of the golden ratio: consecutive counters become well-spread seeds.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
/// Generators, 2014).
#[inline(always)]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The two 16-bit words of `value`, added.
#[inline(always)]
fn halves(value: u32) -> u32 {
    (value & 0xffff) + (value >> 16)
}

/// Folds a sum of 16-bit words (in memory order) into an Internet checksum (RFC 1071).
#[inline(always)]
fn checksum(sum: u32) -> u16 {
    let sum = halves(sum);
    !(halves(sum) as u16)
}
