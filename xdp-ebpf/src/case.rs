//! What travels with a packet through its judgement.

use aya_ebpf::programs::XdpContext;
use xdp_common::{abi::Control, cookie::Family, tuple::Addr};

use crate::scratch::Scratch;

/// Above every offset that [`eth::parse`](xdp_common::wire::eth::parse) returns.
pub(crate) const L3_MASK: usize = 31;

/// What the stages need besides the packet.
pub(crate) struct Case<'c> {
    pub(crate) ctx: &'c XdpContext,
    pub(crate) control: &'c Control,
    pub(crate) scratch: &'c mut Scratch,
    pub(crate) family: Family,
    /// Offset of the IP header.
    pub(crate) l3: usize,
}

/// Whom the packet is for, as far as it became known: what the verdict is counted and logged under;
/// and where it leaves.
#[derive(Default)]
pub(crate) struct Subject {
    /// Id of the service.
    pub(crate) service: Option<u16>,
    pub(crate) dst: Addr,
    /// Whether a forwarded packet leaves through the interface that it came in on.
    pub(crate) leaves_where_it_came: bool,
}
