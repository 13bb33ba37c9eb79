//! What belongs to a handshake goes to the controller, by AF_XDP.

use aya_ebpf::{macros::map, maps::XskMap, programs::XdpContext};
use xdp_common::{
    abi::{IFACES_MAX, QUEUES_MAX, xsk_slot},
    verdict::Verdict,
};

/// The controller's sockets, one for each receive queue of each interface.
#[map]
static XSKS: XskMap = XskMap::with_max_entries(IFACES_MAX * QUEUES_MAX, 0);

/// Hands the packet over as it is.
#[inline(always)]
pub(crate) fn to_engine(ctx: &XdpContext) -> Result<Verdict, Verdict> {
    // SAFETY: the context is the kernel's own.
    let queue = unsafe { (*ctx.ctx).rx_queue_index };
    match XSKS.redirect(xsk_slot(ctx.ingress_ifindex() as u32, queue), 0) {
        Ok(_) => Ok(Verdict::Handshake),
        Err(_) => Err(Verdict::EngineAbsent),
    }
}
