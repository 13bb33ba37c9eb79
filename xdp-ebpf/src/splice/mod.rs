//! Packets of spliced connections: the order of their stages.
//!
//! `levee_xdp` has parsed the packet and seen whose it is. Each direction is a program of its own,
//! so that the verifier follows it on its own.

mod answered;
mod flows;
mod forward;
mod options;
mod steer;
mod targets;

use aya_ebpf::programs::XdpContext;
use xdp_common::{
    abi::{Control, JUMP_HANDSHAKE, MODE_SPLICE},
    splice::{
        flow::{CLIENT, Flow, Hop, STATE_OPEN, TARGET},
        icmp as error,
        index::SideKey,
        translate::{self, Rewrite},
    },
    tuple::Tuple,
    verdict::Verdict,
    wire::{
        icmp,
        tcp::{Kind, Segment},
    },
};

use self::flows::Entry;
use crate::{
    admit, answer,
    case::{Case, Subject},
    control,
    handover::{self, Handover},
    packet::Packet,
    scratch, services,
};

/// Judges a segment from a client to a spliced service.
#[inline(always)]
pub(crate) fn from_client(ctx: &XdpContext, subject: &mut Subject) -> Result<Verdict, Verdict> {
    let (case, handover) = received(ctx)?;
    let segment = handover.segment();
    let service = handover.place();
    subject.service = Some(service);
    subject.dst = segment.tuple.dst;
    // A fragment could not be translated: only the first one has ports.
    if handover.is_fragment() {
        return Err(Verdict::FragmentSpliced);
    }
    let kind = segment.kind()?;
    let key = SideKey::client(segment.tuple.src, segment.tuple.src_port, service);
    let Some(entry) = flows::find(case.control, key) else {
        handover::jump(ctx, JUMP_HANDSHAKE);
        return Err(Verdict::EngineAbsent);
    };
    if entry.flow().state != STATE_OPEN {
        return steer::to_engine(ctx);
    }
    // Over as far as anybody can see: the client may open another connection.
    if is_over(entry) {
        if matches!(kind, Kind::Syn) {
            handover::jump(ctx, JUMP_HANDSHAKE);
            return Err(Verdict::EngineAbsent);
        }
        if matches!(kind, Kind::Ack) && returns_cookie(case.control, &case.scratch.handover) {
            return steer::to_engine(ctx);
        }
    }
    to_target(case, &segment, entry, subject)?;
    Ok(Verdict::ToTarget)
}

/// Whether the connection has ended.
#[inline(always)]
fn is_over(entry: Entry) -> bool {
    let flow = Flow {
        seen: [entry.seen(CLIENT), entry.seen(TARGET)],
        ..*entry.flow()
    };
    flow.is_over()
}

/// Judges a segment from a client that has no connection.
#[inline(always)]
pub(crate) fn begin(ctx: &XdpContext, subject: &mut Subject) -> Result<Verdict, Verdict> {
    let (case, handover) = received(ctx)?;
    let segment = handover.segment();
    subject.service = Some(handover.place());
    subject.dst = segment.tuple.dst;
    match segment.kind()? {
        Kind::Syn if case.control.stopping != 0 => Ok(Verdict::NoService),
        Kind::Syn if segment.tuple.is_answerable() => {
            let Tuple { dst, dst_port, .. } = segment.tuple;
            let entry = services::find(case.control, dst, dst_port).ok_or(Verdict::NoService)?;
            // With a window of zero, so that the client waits until a target has taken the
            // connection.
            let control = case.control;
            let verdict = answer::syn(case, Packet::of_xdp(ctx), &segment, entry, 0)?;
            answered::tell(ctx, control);
            Ok(verdict)
        }
        Kind::Syn => Err(Verdict::SourceInvalid),
        Kind::Ack if returns_cookie(case.control, &case.scratch.handover) => steer::to_engine(ctx),
        Kind::Ack => Err(Verdict::CookieInvalid),
        Kind::SynAck => Err(Verdict::SynAckUnexpected),
        Kind::Rst => Err(Verdict::RstNoConnection),
    }
}

/// Whether the segment acknowledges a cookie of ours. A client that never heard that its window is
/// open probes it, with a sequence number that it has sent already (RFC 9293 3.8.6.1).
#[inline(never)]
fn returns_cookie(control: &Control, handover: &Handover) -> bool {
    let segment = handover.segment();
    let probe = Segment {
        seq: segment.seq.wrapping_add(1),
        ..segment
    };
    admit::verify(handover.family(), control, &segment).is_some()
        || admit::verify(handover.family(), control, &probe).is_some()
}

#[inline(always)]
fn to_target(
    case: Case<'_>,
    segment: &Segment,
    entry: Entry,
    subject: &mut Subject,
) -> Result<(), Verdict> {
    let Case {
        ctx,
        control,
        scratch,
        family,
        l3,
    } = case;
    let flow = entry.flow();
    let target = targets::get(ctx, control, family, flow.target, flow.nat)
        .filter(|target| target.hop.is_known())
        .ok_or(Verdict::NextHopUnknown)?;
    let mut packet = Packet::of_xdp(ctx);
    let back = Hop::back(&packet, l3, ctx.ingress_ifindex() as u32);
    if let Some(back) = back.filter(|back| !back.is_way_of(&entry.hop())) {
        entry.learn(Hop {
            confirmed_s: control.clock_s,
            ..back
        });
    }
    let rewrite = Rewrite::to_target(flow, target);
    translate::segment_by(
        &mut packet,
        family,
        l3,
        segment,
        &rewrite,
        |packet, walk| options::translate(packet, walk, &mut scratch.translation),
    )?;
    let seen = entry.seen(CLIENT);
    let new = seen.after(entry.seen(TARGET), 0, segment, control.clock_s);
    entry.note(CLIENT, seen, new);
    forward::send(ctx, packet, family, l3, &target.hop, subject)
}

/// Judges a segment from a target. Without a connection it is other traffic of that host's, and
/// passes.
#[inline(always)]
pub(crate) fn from_target(ctx: &XdpContext, subject: &mut Subject) -> Result<Verdict, Verdict> {
    let (case, handover) = received(ctx)?;
    let segment = handover.segment();
    let key = SideKey::target(segment.tuple.dst, segment.tuple.dst_port, handover.place());
    let Some(entry) = flows::find(case.control, key) else {
        return Ok(Verdict::NoService);
    };
    subject.service = Some(entry.flow().service);
    if handover.is_fragment() {
        return Err(Verdict::FragmentSpliced);
    }
    if entry.flow().state != STATE_OPEN {
        return steer::to_engine(ctx);
    }
    to_client(case, &segment, entry, subject)?;
    Ok(Verdict::ToClient)
}

#[inline(always)]
fn to_client(
    case: Case<'_>,
    segment: &Segment,
    entry: Entry,
    subject: &mut Subject,
) -> Result<(), Verdict> {
    let Case {
        ctx,
        control,
        scratch,
        family,
        l3,
    } = case;
    let flow = entry.flow();
    let hop = entry.hop();
    if !hop.is_known() {
        return Err(Verdict::NextHopUnknown);
    }
    let service = targets::service(flow.service).ok_or(Verdict::NextHopUnknown)?;
    let mut packet = Packet::of_xdp(ctx);
    let rewrite = Rewrite::to_client(flow, service);
    translate::segment_by(
        &mut packet,
        family,
        l3,
        segment,
        &rewrite,
        |packet, walk| options::translate(packet, walk, &mut scratch.translation),
    )?;
    let seen = entry.seen(TARGET);
    let new = seen.after(entry.seen(CLIENT), flow.seq_delta, segment, control.clock_s);
    entry.note(TARGET, seen, new);
    forward::send(ctx, packet, family, l3, &hop, subject)
}

/// Judges an ICMP message: an error about a segment that was translated is translated back. All
/// others pass.
#[inline(always)]
pub(crate) fn icmp(ctx: &XdpContext, subject: &mut Subject) -> Result<Verdict, Verdict> {
    let (case, _) = received(ctx)?;
    let Case {
        control,
        family,
        l3,
        ..
    } = case;
    let mut packet = Packet::of_xdp(ctx);
    let quote = icmp::quote(&packet, family, l3).ok_or(Verdict::NotTcp)?;
    let Tuple {
        src,
        dst,
        src_port,
        dst_port,
    } = quote.tuple;
    let spliced = services::find(control, src, src_port).filter(|entry| entry.mode == MODE_SPLICE);
    let (key, to_client) = match spliced {
        Some(service) => (SideKey::client(dst, dst_port, service.id), false),
        None => {
            let target = services::target(control, dst, dst_port).ok_or(Verdict::NotTcp)?;
            (SideKey::target(src, src_port, target.id), true)
        }
    };
    let entry = flows::find(control, key).ok_or(Verdict::NotTcp)?;
    let flow = entry.flow();
    if flow.state != STATE_OPEN {
        return Ok(Verdict::NotTcp);
    }
    subject.service = Some(flow.service);
    let target =
        targets::get(ctx, control, family, flow.target, flow.nat).ok_or(Verdict::NextHopUnknown)?;
    let service = targets::service(flow.service).ok_or(Verdict::NextHopUnknown)?;
    let (hop, rewrite) = if to_client {
        let rewrite = error::Rewrite::to_client(flow, target, service);
        (entry.hop(), rewrite)
    } else {
        (target.hop, error::Rewrite::to_target(flow, target))
    };
    if !hop.is_known() {
        return Err(Verdict::NextHopUnknown);
    }
    error::error(&mut packet, family, l3, &quote, &rewrite)?;
    forward::send(ctx, packet, family, l3, &hop, subject)?;
    Ok(Verdict::IcmpError)
}

/// What was handed over with the packet.
#[inline(always)]
fn received(ctx: &XdpContext) -> Result<(Case<'_>, Handover), Verdict> {
    // An array's first element always exists: not being able to judge, do no harm.
    let control = control::get().ok_or(Verdict::NotIp)?;
    let scratch = scratch::get().ok_or(Verdict::NotIp)?;
    let handover = scratch.handover;
    let case = Case {
        ctx,
        control,
        scratch,
        family: handover.family(),
        l3: handover.l3(),
    };
    Ok((case, handover))
}
