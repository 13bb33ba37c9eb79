//! levee's data path: the entry points, the order of the stages, and the only place that turns a
//! verdict into an action of the kernel's.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod admit;
mod answer;
mod case;
mod clock;
mod closing;
mod control;
mod early;
mod extensions;
mod fragments;
mod log;
mod loops;
mod options;
mod packet;
mod payload;
mod scratch;
mod services;
mod socket;
mod stats;

use aya_ebpf::{
    bindings::{TC_ACT_UNSPEC, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use xdp_common::{
    abi::{Control, ServiceEntry},
    cookie::Family,
    tuple::Addr,
    verdict::{Action, Admission, Verdict},
    wire::{
        Datagram, Fragment, Frame, NotDatagram, eth, ipv4,
        tcp::{Flags, Kind, Segment, TcpHeader},
    },
};

use crate::{
    case::{Case, Subject},
    packet::Packet,
    scratch::Scratch,
    socket::Socket,
};

/// Above every offset that [`eth::parse`] returns.
const L3_MASK: usize = 31;

/// What the kernel calls IP, in the byte order of the wire, as it has it.
const PROTOCOL_IP: u16 = eth::ETH_P_IP.to_be();
/// See [`PROTOCOL_IP`].
const PROTOCOL_IPV6: u16 = eth::ETH_P_IPV6.to_be();

/// Judges every packet that an interface receives.
#[xdp]
fn levee_xdp(ctx: XdpContext) -> u32 {
    let mut subject = Subject::default();
    let verdict = match judge(&ctx, &mut subject) {
        Ok(verdict) | Err(verdict) => verdict,
    };
    stats::count_iface(ctx.ingress_ifindex() as u32, verdict.slot());
    if let Some(id) = subject.service {
        stats::count_service(id, verdict.slot());
    }
    if verdict.is_malformed() {
        log::malformed(&ctx, verdict, subject.dst);
    }
    match verdict.action() {
        Action::Pass => xdp_action::XDP_PASS,
        Action::Reply => xdp_action::XDP_TX,
        Action::Drop => xdp_action::XDP_DROP,
    }
}

#[inline(always)]
fn judge(ctx: &XdpContext, subject: &mut Subject) -> Result<Verdict, Verdict> {
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
        Err(NotDatagram::Pass(verdict)) => return Err(verdict),
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
        return Ok(Verdict::NoService);
    };
    subject.service = Some(entry.id);
    let segment = Segment::new(tcp, datagram).ok_or(cut_short)?;
    match segment.kind()? {
        Kind::Syn if !whole => Err(Verdict::FragmentSyn),
        Kind::Syn => judge_syn(case, packet, &segment, entry),
        Kind::SynAck => connection_or(&case, &segment, Verdict::SynAckUnexpected),
        Kind::Rst => connection_or(&case, &segment, Verdict::RstNoConnection),
        Kind::Ack => judge_ack(&case, &segment, whole),
    }
}

#[inline(always)]
fn judge_syn(
    case: Case<'_>,
    packet: Packet,
    segment: &Segment,
    entry: &ServiceEntry,
) -> Result<Verdict, Verdict> {
    let tuple = &segment.tuple;
    let to_itself = tuple.src == tuple.dst && tuple.src_port == tuple.dst_port;
    if to_itself || !tuple.src.is_unicast_source() {
        return Err(Verdict::SourceInvalid);
    }
    if closing::is_marked(case.control, tuple) && has_connection(&case, segment) {
        return Ok(Verdict::SynToClosing);
    }
    answer::syn(case, packet, segment, entry)
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
fn ether(packet: &Packet, scratch: &mut Scratch) -> Option<(u16, usize)> {
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

/// Gives every segment with a valid cookie what the kernel needs to make a socket of it. Whatever
/// happens, the segment goes on.
#[classifier]
fn levee_tc(ctx: TcContext) -> i32 {
    // `None`: not a segment that could return a cookie.
    let _: Option<()> = admit_segment(&ctx);
    TC_ACT_UNSPEC
}

/// The same on a VLAN device, for segments whose inner one of two tags was still in the frame when
/// the device below took the outer one off: the kernel makes sockets only of what it knows to be
/// IP. With a tag less the segment has been judged there.
#[classifier]
fn levee_tc_inner(ctx: TcContext) -> i32 {
    // SAFETY: the kernel hands the program a valid context.
    if unsafe { (*ctx.skb.skb).vlan_present } != 0 {
        // `None`: not a segment that could return a cookie.
        let _: Option<()> = admit_segment(&ctx);
    }
    TC_ACT_UNSPEC
}

#[inline(always)]
fn admit_segment(ctx: &TcContext) -> Option<()> {
    // With another tag in the frame it is for the VLAN device that takes the outer one off to say.
    if !matches!(ctx.skb.protocol() as u16, PROTOCOL_IP | PROTOCOL_IPV6) {
        return None;
    }
    let packet = Packet::of_tc(ctx);
    let control = control::get()?;
    let scratch = scratch::get()?;
    let (ether_type, l3) = ether(&packet, scratch)?;
    match ether_type {
        eth::ETH_P_IP => {
            let datagram = ipv4::parse(&packet, l3).ok()?;
            admit_tcp(ctx, &packet, control, Family::V4, &datagram, scratch)
        }
        eth::ETH_P_IPV6 => {
            let datagram = extensions::parse(&packet, l3, scratch).ok()?;
            admit_tcp(ctx, &packet, control, Family::V6, &datagram, scratch)
        }
        _ => None,
    }
}

#[inline(always)]
fn admit_tcp(
    ctx: &TcContext,
    packet: &Packet,
    control: &Control,
    family: Family,
    datagram: &Datagram,
    scratch: &mut Scratch,
) -> Option<()> {
    if datagram.fragment != Fragment::Whole {
        return None;
    }
    let tcp = packet.get::<TcpHeader>(datagram.l4)?;
    let entry = services::find(control, datagram.dst, tcp.dst_port.get())?;
    let segment = Segment::new(tcp, datagram)?;
    if segment.kind() != Ok(Kind::Ack) {
        return None;
    }
    // The cookie first: a segment of an established connection practically never passes this, and
    // is spared the socket lookup that XDP has already made.
    let proof = admit::verify(family, control, &segment)?;
    let admission = match Socket::lookup(ctx, family, &segment.tuple) {
        Some(socket) if socket.state().is_connection() => return None,
        Some(_) if early::is_admitted(&segment.tuple) => return None,
        Some(socket) if socket.state().is_listener() => {
            match admit::assign(ctx, packet, &segment, &proof, entry, &socket, scratch) {
                Ok(admission) => admission,
                Err(error) => {
                    drop(socket);
                    log::refused(ctx, control, datagram.dst, segment.tuple.dst_port, error);
                    Admission::Refused
                }
            }
        }
        _ => Admission::NoListener,
    };
    if admission == Admission::Admitted {
        early::admitted(&segment.tuple);
    }
    stats::count_service(entry.id, admission.slot());
    log::epoch(ctx, control);
    Some(())
}

/// Returns the low 31 bits of jiffies. The loader runs it twice by `BPF_PROG_TEST_RUN` to learn how
/// long a jiffy is; it is never attached.
#[xdp]
fn levee_jiffies(_ctx: XdpContext) -> u32 {
    clock::jiffies() & 0x7fff_ffff
}

/// A reachable panic is an endless loop, which the verifier refuses to load.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel offers the helpers used here to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
