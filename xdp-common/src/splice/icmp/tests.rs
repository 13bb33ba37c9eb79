use zerocopy::{FromBytes as _, IntoBytes as _};

use super::*;
use crate::wire::{
    checksum::Sum,
    icmp::{self, IPPROTO_ICMP, IPPROTO_ICMPV6},
    tcp::{self, Flags},
};

const L3: usize = 14;
const SEQ: u32 = 0xffff_0000;
const ACK: u32 = 5;
const DELTA: u32 = 0x4000_1234;
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Client, service, address towards the target, target and a router.
fn addresses(family: Family) -> [Addr; 5] {
    [7, 1, 9, 5, 77].map(|last| match family {
        Family::V4 => Addr::v4([10, 0, last, last]),
        Family::V6 => Addr::v6([0xfd, last, 0, 0, 0, 0, 0, 0], [last; 8]),
    })
}

fn known(family: Family) -> (Flow, Target, Spliced) {
    let [client, service, nat, target, _] = addresses(family);
    let flow = Flow {
        client,
        client_port: 40_001,
        nat,
        nat_port: 50_000,
        seq_delta: DELTA,
        ..Flow::default()
    };
    let target = Target {
        addr: target,
        port: 8080,
        ..Target::default()
    };
    let service = Spliced {
        addr: service,
        port: 80,
        ..Spliced::default()
    };
    (flow, target, service)
}

/// An IP header of `len` bytes behind it.
fn ip(family: Family, src: Addr, dst: Addr, protocol: u8, len: usize) -> Vec<u8> {
    let halves = |addr: Addr| [addr.hi.to_le_bytes(), addr.lo.to_le_bytes()];
    match family {
        Family::V4 => {
            let word = |addr: Addr| addr.v4_word().to_le_bytes();
            let mut header = Ipv4Header::tcp(word(src), word(dst), (20 + len) as u16);
            header.protocol = protocol;
            header.checksum = [0; 2];
            header.checksum = Sum::default().with(header).checksum();
            header.as_bytes().to_vec()
        }
        Family::V6 => {
            let mut header = Ipv6Header::tcp(halves(src), halves(dst), len as u16);
            header.next_header = protocol;
            header.as_bytes().to_vec()
        }
    }
}

/// A router's error to `src` about its segment to `dst`, which it quotes `quoted` bytes of.
fn message(
    family: Family,
    (src, src_port): (Addr, u16),
    (dst, dst_port): (Addr, u16),
    quoted: usize,
) -> Vec<u8> {
    let router = addresses(family)[4];
    let header = tcp::header(src_port, dst_port, SEQ, ACK, Flags::ACK, 0, 1000);
    let mut icmp = match family {
        Family::V4 => vec![3, 4, 0, 0, 0, 0, 5, 120],
        Family::V6 => vec![2, 0, 0, 0, 0, 0, 5, 120],
    };
    icmp.extend(ip(family, src, dst, 6, 1000));
    icmp.extend(&header.as_bytes()[..quoted]);
    let protocol = match family {
        Family::V4 => IPPROTO_ICMP,
        Family::V6 => IPPROTO_ICMPV6,
    };
    let checksum = sum(family, router, src, &icmp).checksum();
    icmp[2..4].copy_from_slice(&checksum);
    let mut frame = vec![0; L3];
    frame.extend(ip(family, router, src, protocol, icmp.len()));
    frame.extend(icmp);
    frame
}

fn sum(family: Family, src: Addr, dst: Addr, icmp: &[u8]) -> Sum {
    let pseudo = match family {
        Family::V4 => Sum::default(),
        Family::V6 => {
            let sum = Sum::default()
                .with_be16(u16::from(IPPROTO_ICMPV6))
                .with_be16(icmp.len() as u16);
            [src.hi, src.lo, dst.hi, dst.lo]
                .into_iter()
                .fold(sum, |sum, half| sum.with(half.to_le_bytes()))
        }
    };
    icmp.chunks(2).fold(pseudo, |sum, pair| {
        sum.with([pair[0], pair.get(1).copied().unwrap_or(0)])
    })
}

/// Translates an error; what is quoted then, whom it is for, and the frame.
fn translated(family: Family, to_target: bool, quoted: usize) -> (Quote, Addr, Vec<u8>) {
    let (flow, target, service) = known(family);
    let (client, nat) = ((flow.client, flow.client_port), (flow.nat, flow.nat_port));
    let (target_at, service_at) = ((target.addr, target.port), (service.addr, service.port));
    let (mut frame, rewrite) = if to_target {
        let frame = message(family, service_at, client, quoted);
        (frame, Rewrite::to_target(&flow, &target))
    } else {
        let frame = message(family, nat, target_at, quoted);
        (frame, Rewrite::to_client(&flow, &target, &service))
    };
    let quote = icmp::quote(&frame[..], family, L3).unwrap();
    error(&mut frame[..], family, L3, &quote, &rewrite).unwrap();
    let after = icmp::quote(&frame[..], family, L3).unwrap();
    let (from, to) = ends(family, &frame);
    assert_eq!(from, addresses(family)[4], "the router's address stays");
    let message = &frame[after.icmp..after.end];
    assert_eq!(sum(family, from, to, message).folded(), [0xff; 2]);
    (after, to, frame)
}

fn ends(family: Family, frame: &[u8]) -> (Addr, Addr) {
    match family {
        Family::V4 => {
            let (ip, _) = Ipv4Header::read_from_prefix(&frame[L3..]).unwrap();
            assert_eq!(Sum::default().with(ip).folded(), [0xff; 2]);
            assert_eq!(ip.ttl, 63);
            (Addr::v4(ip.src), Addr::v4(ip.dst))
        }
        Family::V6 => {
            let (ip, _) = Ipv6Header::read_from_prefix(&frame[L3..]).unwrap();
            assert_eq!(ip.hop_limit, 63);
            let [src, dst] = [ip.src, ip.dst].map(|addr| Addr::v6(addr[0], addr[1]));
            (src, dst)
        }
    }
}

#[test]
fn the_target_is_told_of_its_own_segment() {
    for family in FAMILIES {
        for quoted in [8, 12, 20] {
            let (quote, to, frame) = translated(family, true, quoted);
            let [_, _, nat, target, _] = addresses(family);
            assert_eq!(to, target);
            assert_eq!((quote.tuple.src, quote.tuple.src_port), (target, 8080));
            assert_eq!((quote.tuple.dst, quote.tuple.dst_port), (nat, 50_000));
            let (start, _) = TcpStart::read_from_prefix(&frame[quote.l4..]).unwrap();
            assert_eq!(start.seq.get(), SEQ.wrapping_sub(DELTA));
        }
    }
}

#[test]
fn the_client_is_told_of_its_own_segment() {
    for family in FAMILIES {
        let (quote, to, frame) = translated(family, false, 20);
        let [client, service, ..] = addresses(family);
        assert_eq!(to, client);
        assert_eq!((quote.tuple.src, quote.tuple.src_port), (client, 40_001));
        assert_eq!((quote.tuple.dst, quote.tuple.dst_port), (service, 80));
        let (header, _) = TcpHeader::read_from_prefix(&frame[quote.l4..]).unwrap();
        assert_eq!((header.seq.get(), header.ack.get()), (SEQ, ACK + DELTA));
    }
}

#[test]
fn the_far_end_is_known_by_another_address() {
    for family in FAMILIES {
        let (flow, target, _) = known(family);
        let (service, client) = ((addresses(family)[1], 80), (flow.client, flow.client_port));
        let mut frame = message(family, service, client, 8);
        let rewrite = Rewrite {
            far: addresses(family)[4],
            ..Rewrite::to_target(&flow, &target)
        };
        let quote = icmp::quote(&frame[..], family, L3).unwrap();
        error(&mut frame[..], family, L3, &quote, &rewrite).unwrap();
        assert_eq!(ends(family, &frame), (flow.nat, target.addr));
    }
}
