//! A translated packet leaves: its Ethernet header, and through which interface.

use aya_ebpf::{macros::map, maps::DevMap, programs::XdpContext};
use xdp_common::{
    abi::{IFACES_MAX, iface_slot},
    cookie::Family,
    splice::flow::Hop,
    verdict::Verdict,
    wire::eth::{ETH_P_IP, ETH_P_IPV6},
};

use crate::{case::Subject, packet::Packet};

/// The interfaces that packets may leave through.
#[map]
static DEVICES: DevMap = DevMap::with_max_entries(IFACES_MAX, 0);

/// Sends the packet, whose IP header is at `l3`, this way.
///
/// `Err` if the way leads through an interface that is not among the controller's, and if the frame
/// has no room for more tags than it came with.
#[inline(always)]
pub(crate) fn send(
    ctx: &XdpContext,
    packet: Packet,
    family: Family,
    l3: usize,
    hop: &Hop,
    subject: &mut Subject,
) -> Result<(), Verdict> {
    let ether_type = match family {
        Family::V4 => ETH_P_IP,
        Family::V6 => ETH_P_IPV6,
    };
    let shorter = l3 as i32 - hop.header_len() as i32;
    let mut packet = packet.behead(ctx, shorter).ok_or(Verdict::ReplyFailed)?;
    hop.put(&mut packet, ether_type)
        .ok_or(Verdict::ReplyFailed)?;
    subject.leaves_where_it_came = hop.ifindex == ctx.ingress_ifindex() as u32;
    if subject.leaves_where_it_came {
        return Ok(());
    }
    match DEVICES.redirect(iface_slot(hop.ifindex), 0) {
        Ok(_) => Ok(()),
        Err(_) => Err(Verdict::NextHopUnknown),
    }
}
