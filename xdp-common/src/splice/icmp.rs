//! An ICMP error about a segment of a spliced connection, rewritten in place for the side that sent
//! the segment, which knows it as it was before its translation.

use zerocopy::big_endian::{U16, U32};

use super::{
    flow::{Flow, Spliced, Target},
    translate,
};
use crate::{
    cookie::Family,
    tuple::Addr,
    verdict::Verdict,
    wire::{
        FrameMut,
        checksum::Change,
        icmp::{IcmpHeader, Quote, TcpStart},
        ipv4::Ipv4Header,
        ipv6::Ipv6Header,
        tcp::TcpHeader,
    },
};

/// What becomes of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// Whom it is for.
    pub to: Addr,
    /// The far end of the connection, which may report the error itself, in place of a router.
    pub far: Addr,
    /// What the receiver knows it by.
    pub far_known_as: Addr,
    /// Source address of the quoted segment.
    pub src: Addr,
    /// Destination address of the quoted segment.
    pub dst: Addr,
    /// Source port of the quoted segment, host order.
    pub src_port: u16,
    /// Destination port of the quoted segment, host order.
    pub dst_port: u16,
    /// Added to the quoted sequence number.
    pub seq: u32,
    /// Added to the quoted acknowledgement number, where that is quoted.
    pub ack: u32,
}

impl Rewrite {
    /// For an error about a segment from the target.
    #[inline(always)]
    #[must_use]
    pub const fn to_target(flow: &Flow, target: &Target) -> Self {
        Self {
            to: target.addr,
            far: flow.client,
            far_known_as: flow.nat,
            src: target.addr,
            dst: flow.nat,
            src_port: target.port,
            dst_port: flow.nat_port,
            seq: flow.seq_delta.wrapping_neg(),
            ack: 0,
        }
    }

    /// For an error about a segment from the client.
    #[inline(always)]
    #[must_use]
    pub const fn to_client(flow: &Flow, target: &Target, service: &Spliced) -> Self {
        Self {
            to: flow.client,
            far: target.addr,
            far_known_as: service.addr,
            src: flow.client,
            dst: service.addr,
            src_port: flow.client_port,
            dst_port: service.port,
            seq: 0,
            ack: flow.seq_delta,
        }
    }
}

/// Rewrites the error whose IP header is at `l3`, and takes one from its time to live.
///
/// # Errors
/// [`Verdict::TtlExpired`], and then nothing has changed. [`Verdict::TcpHeader`] where the frame
/// ends within a header, which it does not with a [`Quote`] of it.
#[inline(always)]
pub fn error<F: FrameMut + ?Sized>(
    frame: &mut F,
    family: Family,
    l3: usize,
    quote: &Quote,
    rewrite: &Rewrite,
) -> Result<(), Verdict> {
    let from = match family {
        Family::V4 => frame.get::<Ipv4Header>(l3).map(|ip| Addr::v4(ip.src)),
        Family::V6 => frame
            .get::<Ipv6Header>(l3)
            .map(|ip| Addr::v6(ip.src[0], ip.src[1])),
    };
    let from = match from.ok_or(Verdict::TcpHeader)? {
        from if from == rewrite.far => rewrite.far_known_as,
        router => router,
    };
    let pseudo_header = match family {
        // ICMP for IPv4 has none.
        Family::V4 => translate::ipv4(frame, l3, from, rewrite.to).map(|_| Change::NONE),
        Family::V6 => translate::ipv6(frame, l3, from, rewrite.to),
    }?;
    quoted(frame, family, quote, rewrite)
        .and_then(|change| {
            let mut header = *frame.get::<IcmpHeader>(quote.icmp)?;
            header.checksum = pseudo_header.with(change).applied_to(header.checksum);
            frame.put(quote.icmp, &header)
        })
        .ok_or(Verdict::TcpHeader)
}

/// Rewrites what is quoted; the result is what that means to the message's checksum.
#[inline(always)]
fn quoted<F: FrameMut + ?Sized>(
    frame: &mut F,
    family: Family,
    quote: &Quote,
    rewrite: &Rewrite,
) -> Option<Change> {
    let (ip, addresses) = match family {
        Family::V4 => {
            let old = *frame.get::<Ipv4Header>(quote.l3)?;
            let mut new = old;
            let addresses = translate::set_ipv4(&mut new, rewrite.src, rewrite.dst);
            new.checksum = addresses.applied_to(old.checksum);
            frame.put(quote.l3, &new)?;
            (addresses.with_2(old.checksum, new.checksum), addresses)
        }
        Family::V6 => {
            let mut new = *frame.get::<Ipv6Header>(quote.l3)?;
            let addresses = translate::set_ipv6(&mut new, rewrite.src, rewrite.dst);
            frame.put(quote.l3, &new)?;
            (addresses, addresses)
        }
    };
    let old = *frame.get::<TcpStart>(quote.l4)?;
    let new = TcpStart {
        src_port: U16::new(rewrite.src_port),
        dst_port: U16::new(rewrite.dst_port),
        seq: U32::new(old.seq.get().wrapping_add(rewrite.seq)),
    };
    frame.put(quote.l4, &new)?;
    let start = Change::NONE
        .with_2(old.src_port.to_bytes(), new.src_port.to_bytes())
        .with_2(old.dst_port.to_bytes(), new.dst_port.to_bytes())
        .with_4(old.seq.to_bytes(), new.seq.to_bytes());
    // Most routers quote more than they must (RFC 1812 4.3.2.3).
    if quote.l4 + size_of::<TcpHeader>() > quote.end {
        return Some(ip.with(start));
    }
    let mut header = *frame.get::<TcpHeader>(quote.l4)?;
    let (ack, checksum) = (header.ack, header.checksum);
    header.ack = U32::new(ack.get().wrapping_add(rewrite.ack));
    let change = start.with_4(ack.to_bytes(), header.ack.to_bytes());
    header.checksum = addresses.with(change).applied_to(checksum);
    frame.put(quote.l4, &header)?;
    Some(ip.with(change).with_2(checksum, header.checksum))
}

#[cfg(test)]
mod tests;
