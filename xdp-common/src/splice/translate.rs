//! A segment of a spliced connection, rewritten in place for the other side.
//!
//! The client has seen a cookie as the target's initial sequence number, and levee's clock in the
//! timestamps of the SYN-ACK. So the target's numbers and timestamps are moved by two constants of
//! the flow, towards the client where the target sent them and back where the client refers to them.
//! The client's own numbers and timestamps are the same on both sides.

use zerocopy::big_endian::{U16, U32};

use super::flow::{Flow, Spliced, Target};
use crate::{
    cookie::Family,
    tuple::Addr,
    verdict::Verdict,
    wire::{
        FrameMut,
        checksum::Change,
        ipv4::Ipv4Header,
        ipv6::Ipv6Header,
        tcp::{Flags, Segment, TcpHeader},
    },
};

mod options;

pub use options::{Adds, Walk};

/// What becomes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// New source address.
    pub src: Addr,
    /// New destination address.
    pub dst: Addr,
    /// New source port, host order.
    pub src_port: u16,
    /// New destination port, host order.
    pub dst_port: u16,
    /// Added to the sequence number.
    pub seq: u32,
    /// Added to the acknowledgement number and to what is acknowledged selectively.
    pub ack: u32,
    /// Added to the timestamp.
    pub value: u32,
    /// Added to the timestamp that is echoed.
    pub echo: u32,
    /// Window scale of the sender's windows, less that of the receiver's where it is greater.
    pub left: u8,
    /// Window scale that the receiver takes them to have, less `left` where it is greater.
    pub right: u8,
}

impl Rewrite {
    /// For a segment from the client.
    #[inline(always)]
    #[must_use]
    pub const fn to_target(flow: &Flow, target: &Target) -> Self {
        Self {
            src: flow.nat,
            dst: target.addr,
            src_port: flow.nat_port,
            dst_port: target.port,
            seq: 0,
            ack: flow.seq_delta.wrapping_neg(),
            value: 0,
            echo: flow.ts_delta.wrapping_neg(),
            left: flow.client_shift,
            right: 0,
        }
    }

    /// For a segment from the target.
    #[inline(always)]
    #[must_use]
    pub const fn to_client(flow: &Flow, service: &Spliced) -> Self {
        Self {
            src: service.addr,
            dst: flow.client,
            src_port: service.port,
            dst_port: flow.client_port,
            seq: flow.seq_delta,
            ack: 0,
            value: flow.ts_delta,
            echo: 0,
            left: flow.target_scale,
            right: flow.offered_scale,
        }
    }

    /// A window as its receiver must see it: never larger than it is, nor than can be said.
    #[inline(always)]
    const fn window(&self, window: u16) -> u16 {
        let bytes = (window as u32) << (self.left & 15) >> (self.right & 15);
        if bytes > u16::MAX as u32 {
            u16::MAX
        } else {
            bytes as u16
        }
    }

    /// What is added to the options of this segment. Without ACK nothing in it refers to the other
    /// side (RFC 9293 3.1, RFC 7323 3.2).
    #[inline(always)]
    const fn adds(&self, flags: Flags) -> Adds {
        let has_ack = flags.has(Flags::ACK);
        Adds {
            value: self.value,
            echo: if has_ack { self.echo } else { 0 },
            edge: if has_ack { self.ack } else { 0 },
        }
    }
}

/// Rewrites the segment whose IP header is at `l3`, and takes one from its time to live. `walk`
/// makes all [steps](Walk::step) of a [`Walk`], for options in a layout that is not common.
///
/// # Errors
/// [`Verdict::TtlExpired`], and then nothing has changed. [`Verdict::TcpHeader`] where the frame
/// ends within a header, which it does not after [`Segment::new`].
#[inline(always)]
pub fn segment_by<F: FrameMut + ?Sized>(
    frame: &mut F,
    family: Family,
    l3: usize,
    segment: &Segment,
    rewrite: &Rewrite,
    walk: impl FnOnce(&mut F, Walk) -> Change,
) -> Result<(), Verdict> {
    let addresses = match family {
        Family::V4 => ipv4(frame, l3, rewrite.src, rewrite.dst)?,
        Family::V6 => ipv6(frame, l3, rewrite.src, rewrite.dst)?,
    };
    let adds = rewrite.adds(segment.flags);
    let options = match options::common_layout(frame, segment, &adds) {
        Some(change) => change,
        None => walk(frame, Walk::new(segment, adds)),
    };
    tcp(frame, segment, rewrite, addresses.with(options)).ok_or(Verdict::TcpHeader)
}

/// [`segment_by`] with a plain loop.
///
/// # Errors
/// See there.
pub fn segment(
    frame: &mut (impl FrameMut + ?Sized),
    family: Family,
    l3: usize,
    segment: &Segment,
    rewrite: &Rewrite,
) -> Result<(), Verdict> {
    segment_by(frame, family, l3, segment, rewrite, |frame, mut walk| {
        while walk.step(frame) {}
        walk.change()
    })
}

/// Rewrites the addresses of an IPv4 header and takes one from its time to live; the result is what
/// that means to the checksum of a pseudo-header.
#[inline(always)]
pub(super) fn ipv4<F: FrameMut + ?Sized>(
    frame: &mut F,
    l3: usize,
    src: Addr,
    dst: Addr,
) -> Result<Change, Verdict> {
    let old = *frame.get::<Ipv4Header>(l3).ok_or(Verdict::TcpHeader)?;
    if old.ttl <= 1 {
        return Err(Verdict::TtlExpired);
    }
    let mut new = old;
    let addresses = set_ipv4(&mut new, src, dst);
    new.ttl -= 1;
    new.checksum = addresses
        .with_2([old.ttl, old.protocol], [new.ttl, new.protocol])
        .applied_to(old.checksum);
    frame.put(l3, &new).ok_or(Verdict::TcpHeader)?;
    Ok(addresses)
}

/// The same for IPv6, whose header has no checksum.
#[inline(always)]
pub(super) fn ipv6<F: FrameMut + ?Sized>(
    frame: &mut F,
    l3: usize,
    src: Addr,
    dst: Addr,
) -> Result<Change, Verdict> {
    let mut new = *frame.get::<Ipv6Header>(l3).ok_or(Verdict::TcpHeader)?;
    if new.hop_limit <= 1 {
        return Err(Verdict::TtlExpired);
    }
    new.hop_limit -= 1;
    let addresses = set_ipv6(&mut new, src, dst);
    frame.put(l3, &new).ok_or(Verdict::TcpHeader)?;
    Ok(addresses)
}

/// Rewrites addresses only.
#[inline(always)]
pub(super) const fn set_ipv4(ip: &mut Ipv4Header, src: Addr, dst: Addr) -> Change {
    let (old_src, old_dst) = (ip.src, ip.dst);
    ip.src = src.v4_word().to_le_bytes();
    ip.dst = dst.v4_word().to_le_bytes();
    Change::NONE.with_4(old_src, ip.src).with_4(old_dst, ip.dst)
}

/// Rewrites addresses only.
#[inline(always)]
pub(super) const fn set_ipv6(ip: &mut Ipv6Header, src: Addr, dst: Addr) -> Change {
    let (old_src, old_dst) = (ip.src, ip.dst);
    ip.src = [src.hi.to_le_bytes(), src.lo.to_le_bytes()];
    ip.dst = [dst.hi.to_le_bytes(), dst.lo.to_le_bytes()];
    Change::NONE
        .with_8(old_src[0], ip.src[0])
        .with_8(old_src[1], ip.src[1])
        .with_8(old_dst[0], ip.dst[0])
        .with_8(old_dst[1], ip.dst[1])
}

/// Rewrites the TCP header. `change` is what else its checksum covers.
#[inline(always)]
fn tcp<F: FrameMut + ?Sized>(
    frame: &mut F,
    segment: &Segment,
    rewrite: &Rewrite,
    change: Change,
) -> Option<()> {
    let old = *frame.get::<TcpHeader>(segment.l4)?;
    let mut new = old;
    new.src_port = U16::new(rewrite.src_port);
    new.dst_port = U16::new(rewrite.dst_port);
    new.seq = U32::new(old.seq.get().wrapping_add(rewrite.seq));
    if segment.flags.has(Flags::ACK) {
        new.ack = U32::new(old.ack.get().wrapping_add(rewrite.ack));
    }
    // RFC 7323 2.2: the window of a SYN is never scaled.
    if !segment.flags.has(Flags::SYN) {
        new.window = U16::new(rewrite.window(old.window.get()));
    }
    new.checksum = change
        .with_2(old.src_port.to_bytes(), new.src_port.to_bytes())
        .with_2(old.dst_port.to_bytes(), new.dst_port.to_bytes())
        .with_4(old.seq.to_bytes(), new.seq.to_bytes())
        .with_4(old.ack.to_bytes(), new.ack.to_bytes())
        .with_2(old.window.to_bytes(), new.window.to_bytes())
        .applied_to(old.checksum);
    frame.put(segment.l4, &new)
}

#[cfg(test)]
mod tests;
