//! Just enough parsing for the switch: Ethernet, up to two VLAN tags, IP, TCP flags.
use core::mem::size_of;

use aya_ebpf::programs::XdpContext;

const ETH_LEN: usize = 14;
const ETHERTYPE_OFFSET: usize = 12;
const VLAN_TAG_LEN: usize = 4;
const VLAN_TAGS_MAX: usize = 2;
const IPV6_LEN: usize = 40;
const IPPROTO_TCP: u8 = 6;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;

/// What the switch looks at in a TCP segment.
pub(crate) struct Segment {
    pub(crate) flags: u8,
    pub(crate) has_payload: bool,
}

/// The destination MAC address, or `None` for a runt.
#[inline(always)]
pub(crate) fn destination(ctx: &XdpContext) -> Option<[u8; 6]> {
    load(ctx, 0)
}

/// Exchanges source and destination MAC.
#[inline(always)]
pub(crate) fn swap_macs(ctx: &XdpContext) -> Option<()> {
    let macs: [[u8; 6]; 2] = load(ctx, 0)?;
    store(ctx, 0, [macs[1], macs[0]])
}

/// The TCP segment in the frame; `None` if it carries none. IPv6 extension headers are not
/// followed: the lab's own traffic has none where this is asked.
#[inline(always)]
pub(crate) fn tcp_segment(ctx: &XdpContext) -> Option<Segment> {
    let mut offset = ETH_LEN;
    let mut ethertype = load_u16(ctx, ETHERTYPE_OFFSET)?;
    for _ in 0..VLAN_TAGS_MAX {
        if ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_QINQ {
            ethertype = load_u16(ctx, offset + 2)?;
            offset += VLAN_TAG_LEN;
        }
    }
    let (tcp, ip_end) = match ethertype {
        ETHERTYPE_IPV4 => {
            let version_ihl: u8 = load(ctx, offset)?;
            let protocol: u8 = load(ctx, offset + 9)?;
            if protocol != IPPROTO_TCP {
                return None;
            }
            let total = usize::from(load_u16(ctx, offset + 2)?);
            (offset + usize::from(version_ihl & 0xf) * 4, offset + total)
        }
        ETHERTYPE_IPV6 => {
            let next: u8 = load(ctx, offset + 6)?;
            if next != IPPROTO_TCP {
                return None;
            }
            let payload = usize::from(load_u16(ctx, offset + 4)?);
            (offset + IPV6_LEN, offset + IPV6_LEN + payload)
        }
        _ => return None,
    };
    let data_offset: u8 = load(ctx, tcp + 12)?;
    Some(Segment {
        flags: load(ctx, tcp + 13)?,
        has_payload: tcp + usize::from(data_offset >> 4) * 4 < ip_end,
    })
}

/// Reads a `T` at `offset` of the frame.
#[inline(always)]
pub(crate) fn load<T: Copy>(ctx: &XdpContext, offset: usize) -> Option<T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: the bytes `start .. start + size_of::<T>()` lie within the frame, as just checked;
    // the read is unaligned and every `T` used here is valid for any bit pattern.
    Some(unsafe { (start as *const T).read_unaligned() })
}

/// Writes a `T` at `offset` of the frame.
#[inline(always)]
pub(crate) fn store<T: Copy>(ctx: &XdpContext, offset: usize, value: T) -> Option<()> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: as in `load`; XDP frames are writable and nothing else holds a reference into them.
    unsafe { (start as *mut T).write_unaligned(value) };
    Some(())
}

#[inline(always)]
fn load_u16(ctx: &XdpContext, offset: usize) -> Option<u16> {
    load::<[u8; 2]>(ctx, offset).map(u16::from_be_bytes)
}
