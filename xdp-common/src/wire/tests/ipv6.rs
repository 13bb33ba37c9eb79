use std::net::IpAddr;

use crate::{
    tuple::Addr,
    verdict::Verdict,
    wire::{
        Datagram, Fragment, NotDatagram,
        ipv6::{self, EXTENSIONS_MAX},
    },
};

const L3: usize = 14;
const HOP_BY_HOP: u8 = 0;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ESP: u8 = 50;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

fn dst() -> Addr {
    Addr::from(IpAddr::from([0xdd; 16]))
}

/// A frame with a chain of headers, each given by its protocol number and its bytes behind the
/// first, then `last` and 20 bytes of it.
fn frame(chain: &[(u8, &[u8])], last: u8) -> Vec<u8> {
    let mut frame = vec![0; L3];
    frame.extend([0x60, 0, 0, 0, 0, 0]);
    frame.extend([chain.first().map_or(last, |(kind, _)| *kind), 64]);
    frame.extend([0x55; 16]);
    frame.extend([0xdd; 16]);
    for (position, (_, bytes)) in chain.iter().enumerate() {
        frame.push(chain.get(position + 1).map_or(last, |(kind, _)| *kind));
        frame.extend(*bytes);
    }
    frame.extend([0; 20]);
    set_payload_len(&mut frame);
    frame
}

fn set_payload_len(frame: &mut [u8]) {
    let len = (frame.len() - L3 - 40) as u16;
    frame[L3 + 4..L3 + 6].copy_from_slice(&len.to_be_bytes());
}

fn parse(frame: &[u8]) -> Result<Datagram, NotDatagram> {
    ipv6::parse_whole(frame, L3)
}

fn malformed(verdict: Verdict) -> Result<Datagram, NotDatagram> {
    Err(NotDatagram::Malformed(verdict, dst()))
}

/// The common header without its first byte: 8 bytes, 16 bytes, and an AH of 24 bytes.
const SHORT: &[u8] = &[0; 7];
const LONG: &[u8] = &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const AH: &[u8] = &[
    4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

const fn fragment(high: u8, low: u8) -> [u8; 7] {
    [0, high, low, 0x12, 0x34, 0x56, 0x78]
}

fn fragment_id() -> u32 {
    u32::from_ne_bytes([0x12, 0x34, 0x56, 0x78])
}

#[test]
fn every_chain_leads_to_the_segment() {
    let longest = [(DESTINATION, SHORT); EXTENSIONS_MAX];
    let chains: [&[(u8, &[u8])]; 8] = [
        &[],
        &[(HOP_BY_HOP, SHORT)],
        &[(ROUTING, LONG)],
        &[(DESTINATION, SHORT)],
        &[(AUTHENTICATION, AH)],
        &[(HOP_BY_HOP, LONG), (AUTHENTICATION, AH), (ROUTING, SHORT)],
        &[(FRAGMENT, &fragment(0, 0))],
        &longest,
    ];
    for chain in chains {
        let frame = frame(chain, TCP);
        let expected = Datagram {
            src: Addr::from(IpAddr::from([0x55; 16])),
            dst: dst(),
            l4: frame.len() - 20,
            end: frame.len(),
            fragment: Fragment::Whole,
        };
        assert_eq!(parse(&frame), Ok(expected), "{chain:02x?}");
    }
}

#[test]
fn a_chain_too_long_is_malformed() {
    let chain = [(DESTINATION, SHORT); EXTENSIONS_MAX + 1];
    assert_eq!(
        parse(&frame(&chain, TCP)),
        malformed(Verdict::Ipv6Extension)
    );
}

#[test]
fn a_chain_cut_short_is_malformed() {
    for (kind, first_cut) in [(DESTINATION, 2), (AUTHENTICATION, 2), (FRAGMENT, 8)] {
        let whole = frame(&[(kind, SHORT)], TCP);
        for length in 0..first_cut {
            let mut frame = whole[..L3 + 40 + length].to_vec();
            set_payload_len(&mut frame);
            let expected = malformed(Verdict::Ipv6Extension);
            assert_eq!(parse(&frame), expected, "{kind} {length}");
        }
    }
}

#[test]
fn fragments_are_told_by_offset_and_more_fragments() {
    let id = fragment_id();
    let cases = [
        // RFC 6946: an atomic fragment, its reserved bits ignored.
        ((0, 0), Fragment::Whole),
        ((0, 0b110), Fragment::Whole),
        ((0, 1), Fragment::First(id)),
        ((0, 0b1001), Fragment::Later(id)),
        ((0, 0b1000), Fragment::Later(id)),
        ((0xff, 0xf8), Fragment::Later(id)),
    ];
    for ((high, low), expected) in cases {
        let frame = frame(&[(FRAGMENT, &fragment(high, low))], TCP);
        let found = parse(&frame).map(|datagram| datagram.fragment);
        assert_eq!(found, Ok(expected), "{high:#x} {low:#x}");
    }
}

#[test]
fn what_a_later_fragment_continues_is_not_parsed() {
    // The data would be an impossible extension header if it were one.
    let frame = frame(&[(FRAGMENT, &fragment(0, 8))], DESTINATION);
    let found = parse(&frame).map(|datagram| (datagram.fragment, datagram.l4));
    assert_eq!(found, Ok((Fragment::Later(fragment_id()), L3 + 48)));
}

#[test]
fn other_protocols_pass() {
    let not_tcp = Err(NotDatagram::Pass(Verdict::NotTcp));
    for last in [UDP, ESP, 58, 59] {
        assert_eq!(parse(&frame(&[], last)), not_tcp, "{last}");
        let behind = frame(&[(HOP_BY_HOP, SHORT)], last);
        assert_eq!(parse(&behind), not_tcp, "{last}");
    }
    let later = frame(&[(FRAGMENT, &fragment(0, 8))], UDP);
    assert_eq!(parse(&later), not_tcp);
}

#[test]
fn headers_that_contradict_the_frame_are_malformed() {
    let mut version = frame(&[], TCP);
    version[L3] = 0x50;
    assert_eq!(parse(&version), malformed(Verdict::IpHeader));
    let mut long = frame(&[], TCP);
    long[L3 + 5] += 1;
    assert_eq!(parse(&long), malformed(Verdict::IpHeader));
}

#[test]
fn a_header_cut_short_is_the_kernels_to_judge() {
    for length in 0..L3 + 40 {
        let parsed = parse(&frame(&[], TCP)[..length]);
        assert_eq!(parsed, Err(NotDatagram::Pass(Verdict::NotIp)), "{length}");
    }
}
