//! What the XDP program does with a packet: the order of the stages, up to where a packet of a
//! spliced connection goes on in [`splice`](crate::splice).

use aya_ebpf::programs::XdpContext;
use xdp_common::{
    abi::{Control, JUMP_ICMP, JUMP_TO_CLIENT, JUMP_TO_TARGET, MODE_SPLICE, ServiceEntry},
    cookie::Family,
    tuple::Addr,
    verdict::Verdict,
    wire::{
        Datagram, Fragment, Frame as _, NotDatagram, eth, icmp, ipv4,
        tcp::{Flags, Kind, Segment, TcpHeader},
    },
};

use crate::{
    admit, answer,
    case::{Case, L3_MASK, Subject},
    closing, control, early, extensions, fragments,
    handover::{self, Handover},
    packet::Packet,
    scratch::{self, Scratch},
    services,
    socket::Socket,
};

/// Judges a packet as it came in.
#[inline(always)]
pub(crate) fn packet(ctx: &XdpContext, subject: &mut Subject) -> Result<Verdict, Verdict> {
    let packet = Packet::of_xdp(ctx);
    // An array's first element always exists: not being able to judge, do no harm.
    let control = control::get().ok_or(Verdict::NotIp)?;
    let scratch = scratch::get().ok_or(Verdict::NotIp)?;
    let (ether_type, l3) = ether(&packet, scratch).ok_or(Verdict::NotIp)?;
    match ether_type {
        eth::ETH_P_IP => {
            let datagram = ipv4::parse(&packet, l3);
            let case = Case {
                ctx,
                control,
                scratch,
                family: Family::V4,
                l3,
            };
            judge_ip(case, packet, datagram, subject)
        }
        eth::ETH_P_IPV6 => {
            let datagram = extensions::parse(&packet, l3, scratch);
            let case = Case {
                ctx,
                control,
                scratch,
                family: Family::V6,
                l3,
            };
            judge_ip(case, packet, datagram, subject)
        }
        _ => Err(Verdict::NotIp),
    }
}

#[inline(always)]
fn judge_ip(
    case: Case<'_>,
    packet: Packet,
    datagram: Result<Datagram, NotDatagram>,
    subject: &mut Subject,
) -> Result<Verdict, Verdict> {
    let control = case.control;
    let datagram = match datagram {
        Ok(datagram) => datagram,
        Err(NotDatagram::Pass(verdict)) => {
            if control.flow_mask != 0 && icmp::is_icmp(&packet, case.family, case.l3) {
                Handover::of_icmp(case.scratch, case.family, case.l3);
                handover::jump(case.ctx, JUMP_ICMP);
            }
            return Err(verdict);
        }
        Err(NotDatagram::Malformed(verdict, dst)) => {
            subject.dst = dst;
            return malformed(control, verdict, dst);
        }
    };
    let dst = datagram.dst;
    subject.dst = dst;
    match datagram.fragment {
        Fragment::Whole => judge_tcp(case, packet, &datagram, subject),
        Fragment::First(id) => {
            let verdict = judge_tcp(case, packet, &datagram, subject)?;
            if services::protects(control, dst) {
                fragments::expect(&datagram, id);
            }
            Ok(verdict)
        }
        Fragment::Later(_) if !services::protects(control, dst) => Ok(Verdict::NoService),
        Fragment::Later(id) if fragments::is_expected(&datagram, id) => Ok(Verdict::Fragment),
        Fragment::Later(_) => Err(Verdict::FragmentUnknown),
    }
}

#[inline(always)]
fn judge_tcp(
    case: Case<'_>,
    packet: Packet,
    datagram: &Datagram,
    subject: &mut Subject,
) -> Result<Verdict, Verdict> {
    let whole = datagram.fragment == Fragment::Whole;
    let cut_short = if whole {
        Verdict::TcpHeader
    } else {
        Verdict::FragmentTiny
    };
    let Some(tcp) = packet.get::<TcpHeader>(datagram.l4) else {
        return malformed(case.control, cut_short, datagram.dst);
    };
    let Some(entry) = services::find(case.control, datagram.dst, tcp.dst_port.get()) else {
        return from_elsewhere(case, tcp, datagram);
    };
    subject.service = Some(entry.id);
    let segment = Segment::new(tcp, datagram).ok_or(cut_short)?;
    let kind = segment.kind()?;
    if entry.mode == MODE_SPLICE {
        hand_over(case, &segment, entry.id, whole, JUMP_TO_TARGET);
        return Err(Verdict::EngineAbsent);
    }
    if case.control.stopping != 0 {
        return Ok(Verdict::NoService);
    }
    match kind {
        Kind::Syn if !whole => Err(Verdict::FragmentSyn),
        Kind::Syn => judge_syn(case, packet, &segment, entry),
        Kind::SynAck => connection_or(&case, &segment, Verdict::SynAckUnexpected),
        Kind::Rst => connection_or(&case, &segment, Verdict::RstNoConnection),
        Kind::Ack => judge_ack(&case, &segment, whole),
    }
}

/// A segment that is for no service: of a spliced connection, if it is from a target.
#[inline(always)]
fn from_elsewhere(
    case: Case<'_>,
    tcp: &TcpHeader,
    datagram: &Datagram,
) -> Result<Verdict, Verdict> {
    if case.control.flow_mask != 0
        && let Some(target) = services::target(case.control, datagram.src, tcp.src_port.get())
        && let Some(segment) = Segment::new(tcp, datagram)
    {
        let whole = datagram.fragment == Fragment::Whole;
        hand_over(case, &segment, target.id, whole, JUMP_TO_CLIENT);
    }
    Ok(Verdict::NoService)
}

/// Goes on in another program. Returns only if the controller has not put it there.
#[inline(always)]
fn hand_over(case: Case<'_>, segment: &Segment, place: u16, whole: bool, slot: u32) {
    case.scratch.handover = Handover::new(case.family, case.l3, segment, place, whole);
    handover::jump(case.ctx, slot);
}

#[inline(always)]
fn judge_syn(
    case: Case<'_>,
    packet: Packet,
    segment: &Segment,
    entry: &ServiceEntry,
) -> Result<Verdict, Verdict> {
    if !segment.tuple.is_answerable() {
        return Err(Verdict::SourceInvalid);
    }
    if closing::is_marked(case.control, &segment.tuple) && has_connection(&case, segment) {
        return Ok(Verdict::SynToClosing);
    }
    answer::syn(case, packet, segment, entry, entry.window)
}

#[inline(always)]
fn judge_ack(case: &Case<'_>, segment: &Segment, whole: bool) -> Result<Verdict, Verdict> {
    if let Some(socket) = Socket::lookup(case.ctx, case.family, &segment.tuple) {
        let state = socket.state();
        if state.is_connection() {
            if segment.flags.has(Flags::FIN) && state.ends_in_time_wait() {
                closing::mark(case.control, &segment.tuple);
            }
            return Ok(Verdict::Connection);
        }
    }
    // A cookie in fragments would be lost on TC, which sees them before they are put together.
    if whole && admit::verify(case.family, case.control, segment).is_some() {
        early::expect(&segment.tuple);
        Ok(Verdict::CookieValid)
    } else if early::is_expected(&segment.tuple) {
        Ok(Verdict::Early)
    } else {
        Err(Verdict::CookieInvalid)
    }
}

#[inline(always)]
fn has_connection(case: &Case<'_>, segment: &Segment) -> bool {
    Socket::lookup(case.ctx, case.family, &segment.tuple)
        .is_some_and(|socket| socket.state().is_connection())
}

#[inline(always)]
fn connection_or(case: &Case<'_>, segment: &Segment, verdict: Verdict) -> Result<Verdict, Verdict> {
    if has_connection(case, segment) {
        Ok(Verdict::Connection)
    } else {
        Err(verdict)
    }
}

/// The EtherType behind any tags and the offset of the header it announces, of which the verifier
/// is to know no more than its bound: not by how many tags it came about.
#[inline(always)]
pub(crate) fn ether(packet: &Packet, scratch: &mut Scratch) -> Option<(u16, usize)> {
    let (ether_type, l3) = eth::parse(packet)?;
    let [l3] = scratch::forget(&mut scratch.l3, [l3 as u64]);
    Some((ether_type, l3 as usize & L3_MASK))
}

/// A malformed packet is dropped where there is something to protect; elsewhere it is the kernel's
/// to judge.
#[inline(always)]
fn malformed(control: &Control, verdict: Verdict, dst: Addr) -> Result<Verdict, Verdict> {
    if services::protects(control, dst) {
        Err(verdict)
    } else {
        Ok(Verdict::NoService)
    }
}
