//! SYN -> SYN-ACK with a cookie, built in the frame that brought the SYN.

use core::mem::MaybeUninit;

use aya_ebpf::{Global, programs::XdpContext};
use xdp_common::{
    abi::ServiceEntry,
    answer::Draft,
    cookie::{self, Family},
    tuple::Tuple,
    verdict::Verdict,
    wire::{
        Frame, FrameMut,
        checksum::Sum,
        ipv4::Ipv4Header,
        ipv6::Ipv6Header,
        tcp::{self, HEADER_LEN, Segment, TcpHeader},
        tcp_options::PackedOptions,
    },
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, native_endian::U16};

use crate::{
    case::Case,
    clock, options,
    packet::Packet,
    payload::{self, Progress},
    scratch,
};

/// 1: the TCP checksum of a SYN is verified before it is answered.
#[unsafe(no_mangle)]
static CHECK_SYN_CHECKSUM: Global<u8> = Global::new(1);

/// Shortest Ethernet frame without its check sequence (IEEE 802.3 3.2.8): padding up to here stays.
const FRAME_MIN: usize = 60;

/// Turns the SYN into the SYN-ACK that answers it, with this window.
#[inline(always)]
pub(crate) fn syn(
    case: Case<'_>,
    packet: Packet,
    segment: &Segment,
    service: &ServiceEntry,
    window: u16,
) -> Result<Verdict, Verdict> {
    let Case {
        ctx,
        control,
        scratch,
        family,
        l3,
    } = case;
    let (client, sum) = options::parse(&packet, segment, scratch);
    if CHECK_SYN_CHECKSUM.load() != 0
        && !checksum_fits(ctx, &packet, family, segment, sum, &mut scratch.progress)
    {
        return Err(Verdict::SynChecksum);
    }
    let client = scratch::forget(&mut scratch.options, client.to_words());
    let client = PackedOptions::from_words(client);
    let draft = Draft::new(family, segment.flags, segment.option_words, client, service);
    let draft = scratch::forget(&mut scratch.draft, draft.to_words());
    let mut draft = Draft::from_words(draft);
    let slot = control.key_slot & 1;
    let key = control.keys[slot as usize];
    let cookie = cookie::issue(family, key, slot, &segment.tuple, segment.seq, draft.data);
    draft.stamp(clock::timestamp(&cookie));
    let header = header(segment, &draft, cookie.isn, window);
    write(ctx, packet, family, l3, &segment.tuple, header, &draft).ok_or(Verdict::ReplyFailed)
}

/// The SYN-ACK's header, without its checksum.
#[inline(always)]
fn header(segment: &Segment, draft: &Draft, isn: u32, window: u16) -> TcpHeader {
    tcp::header(
        segment.tuple.dst_port,
        segment.tuple.src_port,
        isn,
        segment.seq.wrapping_add(1),
        draft.flags,
        draft.option_words,
        window,
    )
}

/// Writes the SYN-ACK over the SYN that came from `tuple`.
#[inline(always)]
fn write(
    ctx: &XdpContext,
    packet: Packet,
    family: Family,
    l3: usize,
    tuple: &Tuple,
    mut header: TcpHeader,
    draft: &Draft,
) -> Option<Verdict> {
    let tcp_len = HEADER_LEN + draft.option_words * 4;
    let l4 = l3
        + match family {
            Family::V4 => size_of::<Ipv4Header>(),
            Family::V6 => size_of::<Ipv6Header>(),
        };
    let end = l4 + tcp_len;
    let len = if end > FRAME_MIN { end } else { FRAME_MIN };
    let mut packet = if packet.len() > len {
        packet.cut(ctx, len)?
    } else {
        packet
    };

    let sum = draft
        .words
        .iter()
        .fold(Sum::default().with(header), |sum, word| {
            sum.with_word(*word)
        });
    let pseudo = tcp::pseudo_header(family, tuple.dst, tuple.src, tcp_len);
    header.checksum = pseudo.with_sum(sum).checksum();

    let Macs { dst, src } = *packet.get::<Macs>(0)?;
    packet.put(0, &Macs { dst: src, src: dst })?;
    match family {
        Family::V4 => {
            let src = tuple.dst.v4_word().to_le_bytes();
            let dst = tuple.src.v4_word().to_le_bytes();
            packet.put(l3, &Ipv4Header::tcp(src, dst, (end - l3) as u16))?;
        }
        Family::V6 => {
            let src = [tuple.dst.hi.to_le_bytes(), tuple.dst.lo.to_le_bytes()];
            let dst = [tuple.src.hi.to_le_bytes(), tuple.src.lo.to_le_bytes()];
            packet.put(l3, &Ipv6Header::tcp(src, dst, tcp_len as u16))?;
        }
    }
    packet.put(l4, &header)?;
    put_options(&mut packet, l4 + HEADER_LEN, draft)?;
    Some(Verdict::SynAck)
}

/// Writes the options: those of common lengths at once, behind one comparison with the packet's end.
#[inline(always)]
fn put_options(packet: &mut Packet, offset: usize, draft: &Draft) -> Option<()> {
    let [a, b, c, d, e, _] = draft.words;
    match draft.option_words {
        5 => packet.put(offset, &[a, b, c, d, e]),
        3 => packet.put(offset, &[a, b, c]),
        6 => packet.put(offset, &draft.words),
        words => {
            for (i, word) in draft.words.iter().enumerate() {
                if i < words {
                    packet.put(offset + i * 4, word)?;
                }
            }
            Some(())
        }
    }
}

/// The addresses of an Ethernet header, in parts that the CPU moves whole: six bytes are copied one
/// by one.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Macs {
    dst: Mac,
    src: Mac,
}

type Mac = [U16; 3];

/// Whether the SYN's checksum is right. `options` is the sum of its options, if they are summed
/// already.
#[inline(always)]
fn checksum_fits(
    ctx: &XdpContext,
    packet: &Packet,
    family: Family,
    segment: &Segment,
    options: Option<Sum>,
    progress: &mut MaybeUninit<Progress>,
) -> bool {
    let Some(header) = packet.get::<TcpHeader>(segment.l4) else {
        return false;
    };
    let field = header.checksum;
    let rest_len = segment.option_words * 4 + segment.payload_len;
    let rest = match options {
        Some(sum) if segment.payload_len == 0 => sum,
        _ if rest_len == 0 => Sum::default(),
        _ => match payload::sum(ctx, segment.l4 + HEADER_LEN, rest_len, progress) {
            Some(sum) => sum,
            None => return false,
        },
    };
    let (src, dst) = (segment.tuple.src, segment.tuple.dst);
    let pseudo = tcp::pseudo_header(family, src, dst, HEADER_LEN + rest_len);
    tcp::checksum_fits(pseudo, Sum::default().with(*header).with_sum(rest), field)
}
