//! levee's data path: the entry points, and the only place that turns a verdict into an action of
//! the kernel's.
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
mod handover;
mod judge;
mod log;
mod loops;
mod options;
mod packet;
mod payload;
mod scratch;
mod services;
mod socket;
mod splice;
mod stats;

use aya_ebpf::{
    bindings::{TC_ACT_UNSPEC, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use xdp_common::{
    abi::Control,
    cookie::Family,
    verdict::{Action, Admission, Verdict},
    wire::{
        Datagram, Fragment, Frame, eth, ipv4,
        tcp::{Kind, Segment, TcpHeader},
    },
};

use crate::{case::Subject, packet::Packet, scratch::Scratch, socket::Socket};

/// What the kernel calls IP, in the byte order of the wire, as it has it.
const PROTOCOL_IP: u16 = eth::ETH_P_IP.to_be();
/// See [`PROTOCOL_IP`].
const PROTOCOL_IPV6: u16 = eth::ETH_P_IPV6.to_be();

/// Judges every packet that an interface receives.
#[xdp]
fn levee_xdp(ctx: XdpContext) -> u32 {
    let mut subject = Subject::default();
    let verdict = match judge::packet(&ctx, &mut subject) {
        Ok(verdict) | Err(verdict) => verdict,
    };
    conclude(&ctx, verdict, &subject)
}

/// Judges segments from clients to spliced services, which [`levee_xdp`] hands over.
#[xdp]
fn levee_to_target(ctx: XdpContext) -> u32 {
    let mut subject = Subject::default();
    let verdict = match splice::from_client(&ctx, &mut subject) {
        Ok(verdict) | Err(verdict) => verdict,
    };
    conclude(&ctx, verdict, &subject)
}

/// Judges those of clients that have no connection.
#[xdp]
fn levee_handshake(ctx: XdpContext) -> u32 {
    let mut subject = Subject::default();
    let verdict = match splice::begin(&ctx, &mut subject) {
        Ok(verdict) | Err(verdict) => verdict,
    };
    conclude(&ctx, verdict, &subject)
}

/// Judges segments from targets.
#[xdp]
fn levee_to_client(ctx: XdpContext) -> u32 {
    let mut subject = Subject::default();
    let verdict = match splice::from_target(&ctx, &mut subject) {
        Ok(verdict) | Err(verdict) => verdict,
    };
    conclude(&ctx, verdict, &subject)
}

/// Judges ICMP messages.
#[xdp]
fn levee_icmp(ctx: XdpContext) -> u32 {
    let mut subject = Subject::default();
    let verdict = match splice::icmp(&ctx, &mut subject) {
        Ok(verdict) | Err(verdict) => verdict,
    };
    conclude(&ctx, verdict, &subject)
}

/// Counts a packet and has the kernel do with it what was decided.
#[inline(always)]
fn conclude(ctx: &XdpContext, verdict: Verdict, subject: &Subject) -> u32 {
    stats::count_iface(ctx.ingress_ifindex() as u32, verdict.slot());
    if let Some(id) = subject.service {
        stats::count_service(id, verdict.slot());
    }
    if verdict.is_malformed() {
        log::malformed(ctx, verdict, subject.dst);
    }
    match verdict.action() {
        Action::Pass => xdp_action::XDP_PASS,
        Action::Reply => xdp_action::XDP_TX,
        Action::Drop => xdp_action::XDP_DROP,
        Action::Redirect if subject.leaves_where_it_came => xdp_action::XDP_TX,
        Action::Redirect => xdp_action::XDP_REDIRECT,
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
    let (ether_type, l3) = judge::ether(&packet, scratch)?;
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
