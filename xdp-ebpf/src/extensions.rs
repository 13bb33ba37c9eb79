//! IPv6 datagrams in the data path: extension headers are followed in the kernel's own loop.

use xdp_common::wire::{
    Datagram, NotDatagram,
    ipv6::{self, Chain, EXTENSIONS_MAX, Parsed},
};

use crate::{
    loops::{self, Steps},
    packet::{self, Packet},
    scratch::Scratch,
};

/// Judges the IPv6 header at `l3` and all that follows it up to TCP.
#[inline(always)]
pub(crate) fn parse(
    packet: &Packet,
    l3: usize,
    scratch: &mut Scratch,
) -> Result<Datagram, NotDatagram> {
    match ipv6::parse(packet, l3)? {
        Parsed::Datagram(datagram) => Ok(datagram),
        Parsed::Chain(chain) => {
            let chain = scratch.chain.write(chain);
            loops::run(&mut State { packet, chain });
            let mut datagram = chain.finish()?;
            datagram.l4 = packet::bounded(datagram.l4);
            Ok(datagram)
        }
    }
}

struct State<'p> {
    packet: &'p Packet,
    chain: &'p mut Chain,
}

impl Steps for State<'_> {
    const MAX: u32 = EXTENSIONS_MAX as u32;

    #[inline(always)]
    fn step(&mut self) -> bool {
        self.chain.step(self.packet)
    }
}
