//! The segment that returns a cookie: is the cookie valid, and if so, a socket for it.

use aya_ebpf::{
    EbpfContext,
    bindings::{__sk_buff, tcp_sock},
    helpers::generated::bpf_skc_to_tcp_sock,
    programs::TcContext,
};
use xdp_common::{
    abi::{Control, KFUNC_SK_ASSIGN_TCP_REQSK, OFFER_TIMESTAMPS, ServiceEntry},
    answer::echoed_ecn,
    cookie::{self, Cookie, Family, Offer},
    verdict::Admission,
    wire::{
        tcp::Segment,
        tcp_options::{TcpOptions, Timestamps},
    },
};

use crate::{clock, options, packet::Packet, scratch::Scratch, socket::Socket};

/// Whether the segment acknowledges a cookie of ours, be it the bare ACK or, if that was lost, the
/// first data.
#[inline(always)]
pub(crate) fn verify(
    family: Family,
    control: &Control,
    segment: &Segment,
) -> Option<(Cookie, Offer)> {
    let client_isn = segment.seq.wrapping_sub(1);
    let isn = segment.ack.wrapping_sub(1);
    cookie::verify(family, &control.keys, &segment.tuple, client_isn, isn)
}

/// `struct bpf_tcp_req_attrs` (Linux 6.9, include/net/tcp.h): what the kernel would remember of a
/// handshake.
#[repr(C)]
struct RequestAttrs {
    rcv_tsval: u32,
    rcv_tsecr: u32,
    mss: u16,
    rcv_wscale: u8,
    snd_wscale: u8,
    ecn_ok: u8,
    wscale_ok: u8,
    sack_ok: u8,
    tstamp_ok: u8,
    usec_ts_ok: u8,
    reserved: [u8; 3],
}

const _: () = assert!(size_of::<RequestAttrs>() == 20);

impl RequestAttrs {
    #[inline(always)]
    fn new(
        offer: &Offer,
        timestamps: Option<Timestamps>,
        cookie: &Cookie,
        service: &ServiceEntry,
    ) -> Self {
        // A client that agreed to timestamps sends them in every segment (RFC 7323 3.2).
        let (theirs, tstamp_ok) = match timestamps {
            Some(theirs) if service.offer & OFFER_TIMESTAMPS != 0 => (theirs, 1),
            _ => (Timestamps { value: 0, echo: 0 }, 0),
        };
        Self {
            rcv_tsval: theirs.value,
            // The kernel starts the connection's clock here. Not the echo, which may be of an
            // earlier one of several SYN-ACKs: our timestamps must never run backwards (RFC 7323
            // 5.3).
            rcv_tsecr: clock::timestamp(cookie),
            mss: offer.mss,
            rcv_wscale: service.window_scale,
            snd_wscale: offer.window_scale.unwrap_or_default(),
            ecn_ok: tstamp_ok & u8::from(echoed_ecn(theirs.echo)),
            wscale_ok: u8::from(offer.window_scale.is_some()),
            sack_ok: u8::from(offer.sack),
            tstamp_ok,
            usec_ts_ok: 0,
            reserved: [0; 3],
        }
    }
}

/// Hands the kernel everything it needs to make a socket of the segment. `Err` carries the
/// kernel's errno, negative.
#[inline(always)]
pub(crate) fn assign(
    ctx: &TcContext,
    packet: &Packet,
    segment: &Segment,
    (cookie, offer): &(Cookie, Offer),
    service: &ServiceEntry,
    listener: &Socket,
    scratch: &mut Scratch,
) -> Result<Admission, i32> {
    const EINVAL: i32 = -22;
    let (options, _) = options::parse(packet, segment, scratch);
    let mut attrs = RequestAttrs::new(offer, TcpOptions::from(options).timestamps, cookie, service);
    // SAFETY: the socket is held for the duration of both calls.
    let socket = unsafe { bpf_skc_to_tcp_sock(listener.as_ptr().cast()) };
    if socket.is_null() {
        return Err(EINVAL);
    }
    // SAFETY: `bpf_sk_assign_tcp_reqsk` (Linux 6.9) reads `attrs` and takes its own hold on the
    // socket.
    let error = unsafe { sk_assign_tcp_reqsk(ctx.as_ptr().cast(), socket, &raw mut attrs) };
    if error == 0 {
        Ok(Admission::Admitted)
    } else {
        Err(error)
    }
}

/// Calls the kfunc. aya 0.14 cannot link kfuncs: the call is emitted as one to a helper with a
/// number that no helper has, and the loader turns exactly that instruction into the kfunc call.
/// Never inlined, so that there is one such instruction.
#[inline(never)]
unsafe fn sk_assign_tcp_reqsk(
    skb: *mut __sk_buff,
    socket: *mut tcp_sock,
    attrs: *mut RequestAttrs,
) -> i32 {
    type Kfunc =
        unsafe extern "C" fn(*mut __sk_buff, *mut tcp_sock, *mut RequestAttrs, usize) -> i32;
    // SAFETY: never called as an address: see above.
    let kfunc: Kfunc = unsafe { core::mem::transmute(KFUNC_SK_ASSIGN_TCP_REQSK as usize) };
    // SAFETY: the caller's.
    unsafe { kfunc(skb, socket, attrs, size_of::<RequestAttrs>()) }
}
