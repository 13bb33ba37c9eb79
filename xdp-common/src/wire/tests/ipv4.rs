use crate::{
    tuple::Addr,
    verdict::Verdict,
    wire::{Datagram, Fragment, NotDatagram, ipv4},
};

const L3: usize = 14;
const SRC: [u8; 4] = [198, 51, 100, 7];
const DST: [u8; 4] = [192, 0, 2, 1];

/// A frame with a TCP datagram of `words` header words and 20 bytes behind them.
fn frame(words: u8) -> Vec<u8> {
    let header_len = usize::from(words) * 4;
    let mut frame = vec![0; L3 + header_len + 20];
    frame[L3] = 0x40 | words;
    set_total_len(&mut frame, header_len + 20);
    frame[L3 + 4..L3 + 6].copy_from_slice(&[0x12, 0x34]);
    frame[L3 + 9] = 6;
    frame[L3 + 12..L3 + 16].copy_from_slice(&SRC);
    frame[L3 + 16..L3 + 20].copy_from_slice(&DST);
    frame
}

fn set_total_len(frame: &mut [u8], len: usize) {
    frame[L3 + 2..L3 + 4].copy_from_slice(&(len as u16).to_be_bytes());
}

fn malformed() -> Result<Datagram, NotDatagram> {
    Err(NotDatagram::Malformed(Verdict::IpHeader, Addr::v4(DST)))
}

#[test]
fn options_move_the_segment() {
    for words in 5..=15 {
        let parsed = ipv4::parse(&frame(words)[..], L3);
        let l4 = L3 + usize::from(words) * 4;
        let expected = Datagram {
            src: Addr::v4(SRC),
            dst: Addr::v4(DST),
            l4,
            end: l4 + 20,
            fragment: Fragment::Whole,
        };
        assert_eq!(parsed, Ok(expected), "{words}");
    }
}

#[test]
fn padding_is_not_part_of_the_datagram() {
    let mut frame = frame(5);
    frame.extend([0; 6]);
    let end = ipv4::parse(&frame[..], L3).map(|datagram| datagram.end);
    assert_eq!(end, Ok(L3 + 40));
}

#[test]
fn headers_that_contradict_the_frame_are_malformed() {
    for version_ihl in [0x55, 0x65, 0x05, 0x44, 0x40] {
        let mut frame = frame(5);
        frame[L3] = version_ihl;
        assert_eq!(ipv4::parse(&frame[..], L3), malformed(), "{version_ihl:#x}");
    }
    for total_len in [0, 19, 41, 0xffff] {
        let mut frame = frame(5);
        set_total_len(&mut frame, total_len);
        assert_eq!(ipv4::parse(&frame[..], L3), malformed(), "{total_len}");
    }
    let mut frame = frame(6);
    set_total_len(&mut frame, 23);
    assert_eq!(ipv4::parse(&frame[..], L3), malformed());
}

#[test]
fn a_header_cut_short_is_the_kernels_to_judge() {
    for length in 0..L3 + 20 {
        let parsed = ipv4::parse(&frame(5)[..length], L3);
        assert_eq!(parsed, Err(NotDatagram::Pass(Verdict::NotIp)), "{length}");
    }
}

#[test]
fn other_protocols_pass_however_broken() {
    let mut frame = frame(5);
    frame[L3] = 0x44;
    frame[L3 + 9] = 17;
    let parsed = ipv4::parse(&frame[..], L3);
    assert_eq!(parsed, Err(NotDatagram::Pass(Verdict::NotTcp)));
}

#[test]
fn fragments_are_told_by_offset_and_more_fragments() {
    let cases = [
        (0x4000, Fragment::Whole),
        (0x8000, Fragment::Whole),
        (0x2000, Fragment::First(0x1234)),
        (0x6000, Fragment::First(0x1234)),
        (0x2001, Fragment::Later(0x1234)),
        (0x0001, Fragment::Later(0x1234)),
        (0x1fff, Fragment::Later(0x1234)),
    ];
    for (field, expected) in cases {
        let mut frame = frame(5);
        frame[L3 + 6..L3 + 8].copy_from_slice(&u16::to_be_bytes(field));
        let fragment = ipv4::parse(&frame[..], L3).map(|datagram| datagram.fragment);
        assert_eq!(fragment, Ok(expected), "{field:#06x}");
    }
}
