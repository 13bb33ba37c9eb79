use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::*;
use crate::{
    tuple::Tuple,
    wire::{
        checksum::Sum,
        ipv4, ipv6,
        tcp::{self, HEADER_LEN, pseudo_header},
    },
};

const L3: usize = 14;
const SEQ: u32 = 0xffff_fff0;
const ACK: u32 = 7;
const WINDOW: u16 = 0x1234;
const PAYLOAD: &[u8] = b"payload";

/// NOP, NOP, timestamps.
const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff];

fn socket(text: &str) -> (Addr, u16) {
    let socket: SocketAddr = text.parse().unwrap();
    (socket.ip().into(), socket.port())
}

/// Client, service, address towards the target, and target.
fn sockets(family: Family) -> [(Addr, u16); 4] {
    match family {
        Family::V4 => [
            "198.51.100.7:40001",
            "192.0.2.1:80",
            "192.0.2.9:50000",
            "10.0.0.5:8080",
        ],
        Family::V6 => [
            "[2001:db8:c::7]:40001",
            "[2001:db8::1]:80",
            "[2001:db8::9]:50000",
            "[fd00::5]:8080",
        ],
    }
    .map(socket)
}

fn flow(family: Family) -> (Flow, Target, Spliced) {
    let [client, service, nat, target] = sockets(family);
    let flow = Flow {
        client: client.0,
        client_port: client.1,
        nat: nat.0,
        nat_port: nat.1,
        seq_delta: 0x8000_1234,
        ts_delta: 0x0102_0304,
        ..Flow::default()
    };
    let target = Target {
        addr: target.0,
        port: target.1,
        ..Target::default()
    };
    let service = Spliced {
        addr: service.0,
        port: service.1,
        ..Spliced::default()
    };
    (flow, target, service)
}

/// A frame with a right checksum, and its segment.
fn frame(
    family: Family,
    from: (Addr, u16),
    to: (Addr, u16),
    flags: Flags,
    area: &[u8],
) -> (Vec<u8>, Segment) {
    let mut header = tcp::header(from.1, to.1, SEQ, ACK, flags, area.len() / 4, WINDOW);
    let tcp_len = HEADER_LEN + area.len() + PAYLOAD.len();
    let mut segment = header.as_bytes().to_vec();
    segment.extend(area);
    segment.extend(PAYLOAD);
    header.checksum = checksum(family, from.0, to.0, &segment);
    segment[16..18].copy_from_slice(&header.checksum);
    let mut frame = vec![0xee; L3];
    match (from.0.to_ip(), to.0.to_ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => frame
            .extend(Ipv4Header::tcp(src.octets(), dst.octets(), (20 + tcp_len) as u16).as_bytes()),
        _ => {
            let halves = |addr: Addr| [addr.hi.to_le_bytes(), addr.lo.to_le_bytes()];
            frame.extend(Ipv6Header::tcp(halves(from.0), halves(to.0), tcp_len as u16).as_bytes());
        }
    }
    frame.extend(segment);
    let read = read(family, &frame);
    (frame, read)
}

fn read(family: Family, frame: &[u8]) -> Segment {
    let datagram = match family {
        Family::V4 => ipv4::parse(frame, L3),
        Family::V6 => ipv6::parse_whole(frame, L3),
    }
    .unwrap();
    let header = *crate::wire::Frame::get::<TcpHeader>(frame, datagram.l4).unwrap();
    Segment::new(&header, &datagram).unwrap()
}

/// The checksum of a segment with a zero or a right one in it, summed as RFC 1071 has it.
fn checksum(family: Family, src: Addr, dst: Addr, segment: &[u8]) -> [u8; 2] {
    let mut sum = pseudo_header(family, src, dst, segment.len());
    for pair in segment.chunks(2) {
        sum = sum.with([pair[0], pair.get(1).copied().unwrap_or(0)]);
    }
    sum.checksum()
}

/// Fails unless every checksum is right.
fn check_sums(family: Family, frame: &[u8]) {
    let segment = read(family, frame);
    let Tuple { src, dst, .. } = segment.tuple;
    let whole = &frame[segment.l4..];
    assert!(
        matches!(checksum(family, src, dst, whole), [0, 0] | [0xff, 0xff]),
        "TCP"
    );
    if family == Family::V4 {
        let header = *Ipv4Header::ref_from_bytes(&frame[L3..L3 + 20]).unwrap();
        assert_eq!(Sum::default().with(header).folded(), [0xff; 2], "IPv4");
    }
}

/// A segment from one side as the other side gets it: its option area, the segment, its window.
fn translated(
    family: Family,
    to_target: bool,
    flags: Flags,
    area: &[u8],
) -> (Vec<u8>, Segment, u16) {
    let (mut flow, target, service) = flow(family);
    (flow.client_shift, flow.target_scale, flow.offered_scale) = (2, 3, 9);
    let [client, service_at, nat, target_at] = sockets(family);
    let (from, to, rewrite) = if to_target {
        (client, service_at, Rewrite::to_target(&flow, &target))
    } else {
        (target_at, nat, Rewrite::to_client(&flow, &service))
    };
    let (mut frame, segment) = frame(family, from, to, flags, area);
    super::segment(&mut frame[..], family, L3, &segment, &rewrite).unwrap();
    check_sums(family, &frame);
    let after = read(family, &frame);
    let expected = if to_target {
        (nat, target_at)
    } else {
        (service_at, client)
    };
    let Tuple {
        src,
        dst,
        src_port,
        dst_port,
    } = after.tuple;
    assert_eq!(((src, src_port), (dst, dst_port)), expected);
    assert_eq!((after.flags, after.payload_len), (flags, PAYLOAD.len()));
    assert_eq!(&frame[frame.len() - PAYLOAD.len()..], PAYLOAD);
    let ttl = frame[L3 + if family == Family::V4 { 8 } else { 7 }];
    assert_eq!(ttl, 63);
    let at = after.l4 + HEADER_LEN;
    let window = u16::from_be_bytes([frame[after.l4 + 14], frame[after.l4 + 15]]);
    (frame[at..at + area.len()].to_vec(), after, window)
}

/// The option area as a plain reading of the rules translates it.
fn naive(area: &[u8], adds: &Adds) -> Vec<u8> {
    let mut out = area.to_vec();
    let add = |bytes: &mut [u8], by: u32| {
        let number = u32::from_be_bytes(bytes.try_into().unwrap());
        bytes.copy_from_slice(&number.wrapping_add(by).to_be_bytes());
    };
    let mut at = 0;
    while at < out.len() {
        let len = match out[at..] {
            [0, ..] => break,
            [1, ..] => 1,
            [_, len, ..] if len >= 2 && at + usize::from(len) <= out.len() => usize::from(len),
            _ => break,
        };
        match (out[at], len) {
            (8, 10) => {
                add(&mut out[at + 2..at + 6], adds.value);
                add(&mut out[at + 6..at + 10], adds.echo);
            }
            (5, _) if (len - 2).is_multiple_of(8) => {
                for edge in (at + 2..at + len).step_by(4) {
                    add(&mut out[edge..edge + 4], adds.edge);
                }
            }
            _ => {}
        }
        at += len;
    }
    out
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

fn adds(to_target: bool) -> Adds {
    if to_target {
        Adds {
            value: 0,
            echo: 0u32.wrapping_sub(0x0102_0304),
            edge: 0u32.wrapping_sub(0x8000_1234),
        }
    } else {
        Adds {
            value: 0x0102_0304,
            echo: 0,
            edge: 0,
        }
    }
}

/// A SACK option with this many blocks, behind two NOPs.
fn sack(blocks: u8) -> Vec<u8> {
    let mut area = vec![1, 1, 5, 2 + 8 * blocks];
    area.extend((0..8 * blocks).map(|byte| byte.wrapping_mul(37)));
    area
}

/// Layouts by name, common and uncommon.
fn layouts() -> Vec<(&'static str, Vec<u8>)> {
    let odd_sack = [vec![1, 5, 10], vec![0xff; 8], vec![0]].concat();
    let odd = [&[1][..], &TIMESTAMPS[2..], &[0]].concat();
    vec![
        ("none", vec![]),
        ("timestamps", TIMESTAMPS.to_vec()),
        ("sack 1", sack(1)),
        ("sack 2", sack(2)),
        ("sack 3", sack(3)),
        ("sack 4", sack(4)),
        (
            "timestamps and sack 1",
            [TIMESTAMPS.to_vec(), sack(1)].concat(),
        ),
        (
            "timestamps and sack 2",
            [TIMESTAMPS.to_vec(), sack(2)].concat(),
        ),
        (
            "timestamps and sack 3",
            [TIMESTAMPS.to_vec(), sack(3)].concat(),
        ),
        ("timestamps at an odd offset", odd),
        ("sack at an odd offset", odd_sack),
        (
            "timestamps behind",
            [&[8, 10][..], &TIMESTAMPS[4..], &[1, 1]].concat(),
        ),
        ("sack without blocks", vec![1, 1, 5, 2]),
        ("sack of a wrong length", vec![1, 1, 5, 6, 1, 2, 3, 4]),
        ("sack cut short", vec![1, 1, 5, 18, 1, 2, 3, 4, 5, 6, 7, 8]),
        (
            "timestamps, then another option",
            [&TIMESTAMPS[..], &[254, 4, 1, 2]].concat(),
        ),
        ("end", vec![0, 8, 10, 1]),
    ]
}

#[test]
fn options_of_every_layout_are_translated() {
    for family in FAMILIES {
        for (name, area) in layouts() {
            for to_target in [true, false] {
                let (found, ..) = translated(family, to_target, Flags::ACK, &area);
                assert_eq!(
                    found,
                    naive(&area, &adds(to_target)),
                    "{name}, to target {to_target}"
                );
            }
        }
    }
}

#[test]
fn numbers_move_one_way_and_back() {
    for family in FAMILIES {
        let (_, segment, _) = translated(family, true, Flags::ACK, &[]);
        assert_eq!(
            (segment.seq, segment.ack),
            (SEQ, ACK.wrapping_sub(0x8000_1234))
        );
        let (_, segment, _) = translated(family, false, Flags::ACK, &[]);
        assert_eq!(
            (segment.seq, segment.ack),
            (SEQ.wrapping_add(0x8000_1234), ACK)
        );
    }
}

#[test]
fn without_ack_nothing_refers_to_the_other_side() {
    let (area, segment, _) = translated(Family::V4, true, Flags::RST, &TIMESTAMPS);
    assert_eq!((segment.seq, segment.ack), (SEQ, ACK));
    assert_eq!(area, TIMESTAMPS);
}

#[test]
fn windows_are_scaled_but_for_a_syns() {
    let (.., window) = translated(Family::V4, true, Flags::ACK, &[]);
    assert_eq!(window, WINDOW << 2);
    let (.., window) = translated(Family::V4, false, Flags::ACK, &[]);
    assert_eq!(window, WINDOW >> 6);
    let (.., window) = translated(Family::V4, true, Flags::SYN, &[]);
    assert_eq!(window, WINDOW);
}

#[test]
fn a_window_that_cannot_be_said_is_the_largest() {
    let (mut flow, target, service) = flow(Family::V4);
    flow.client_shift = 14;
    assert_eq!(Rewrite::to_target(&flow, &target).window(4), u16::MAX);
    assert_eq!(Rewrite::to_target(&flow, &target).window(3), 3 << 14);
    assert_eq!(
        Rewrite::to_target(&flow, &target).window(u16::MAX),
        u16::MAX
    );
    (flow.target_scale, flow.offered_scale) = (14, 0);
    assert_eq!(Rewrite::to_client(&flow, &service).window(5), u16::MAX);
    (flow.target_scale, flow.offered_scale) = (0, 14);
    assert_eq!(Rewrite::to_client(&flow, &service).window(u16::MAX), 3);
}

#[test]
fn the_last_hop_is_not_passed() {
    for family in FAMILIES {
        let (flow, target, _) = flow(family);
        let [client, service, ..] = sockets(family);
        let (mut frame, segment) = frame(family, client, service, Flags::ACK, &[]);
        let ttl = L3 + if family == Family::V4 { 8 } else { 7 };
        for last in [0, 1] {
            frame[ttl] = last;
            let before = frame.clone();
            let rewrite = Rewrite::to_target(&flow, &target);
            let result = super::segment(&mut frame[..], family, L3, &segment, &rewrite);
            assert_eq!(result, Err(Verdict::TtlExpired));
            assert_eq!(frame, before);
        }
    }
}

proptest! {
    #[test]
    fn any_options_are_translated_as_by_the_rules(
        words in prop::collection::vec(any::<[u8; 4]>(), 0..=10),
        kinds in prop::collection::vec((0..40_usize, prop::sample::select(vec![0_u8, 1, 2, 5, 8, 10, 18])), 0..8),
        v6: bool,
        to_target: bool,
    ) {
        let mut area = words.concat();
        for (at, value) in kinds {
            if let Some(byte) = area.get_mut(at) {
                *byte = value;
            }
        }
        let family = if v6 { Family::V6 } else { Family::V4 };
        let (found, ..) = translated(family, to_target, Flags::ACK, &area);
        prop_assert_eq!(found, naive(&area, &adds(to_target)));
    }

    #[test]
    fn a_checksum_is_updated_as_if_summed_again(
        old in any::<[u8; 8]>(),
        new in any::<[u8; 8]>(),
        before in prop::collection::vec(any::<u8>(), 0..6),
    ) {
        let sum = |middle: &[u8]| {
            let bytes = [&before[..], middle, &[0]].concat();
            let pairs = bytes.chunks(2).map(|pair| [pair[0], pair.get(1).copied().unwrap_or(0)]);
            pairs.fold(Sum::default(), |sum, pair| sum.with(pair)).checksum()
        };
        let change = Change::NONE.with_8(old, new);
        let change = if before.len().is_multiple_of(2) { change } else { change.at_odd_offset() };
        let (found, expected) = (change.applied_to(sum(&old)), sum(&new));
        let zero = |field: [u8; 2]| matches!(field, [0, 0] | [0xff, 0xff]);
        prop_assert!(found == expected || zero(found) && zero(expected));
    }
}
