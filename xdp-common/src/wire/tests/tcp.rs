use crate::{
    tuple::Addr,
    verdict::Verdict,
    wire::{
        Datagram, Fragment,
        tcp::{self, Flags, Kind, Segment},
    },
};

const L4: usize = 34;

fn segment(offset_flags: u16, tcp_len: usize) -> Option<Segment> {
    let datagram = Datagram {
        src: Addr::v4([198, 51, 100, 7]),
        dst: Addr::v4([192, 0, 2, 1]),
        l4: L4,
        end: L4 + tcp_len,
        fragment: Fragment::Whole,
    };
    let mut header = tcp::header(40_000, 80, 1, 2, Flags::SYN, 0, 3);
    header.offset_flags.set(offset_flags);
    Segment::new(&header, &datagram)
}

fn kind(flags: u16) -> Result<Kind, Verdict> {
    segment(0x5000 | flags, 20).unwrap().kind()
}

#[test]
fn a_header_is_read_whole() {
    let segment = segment(0x7012, 100).unwrap();
    assert_eq!(
        (segment.tuple.src_port, segment.tuple.dst_port),
        (40_000, 80)
    );
    assert_eq!((segment.seq, segment.ack), (1, 2));
    assert_eq!(segment.flags, Flags::SYN.with(Flags::ACK));
    assert_eq!((segment.option_words, segment.payload_len), (2, 72));
}

#[test]
fn a_header_fits_its_datagram_or_is_none() {
    for words in 0..16_u16 {
        for tcp_len in 0..80 {
            let fits = words >= 5 && usize::from(words) * 4 <= tcp_len;
            let found = segment(words << 12, tcp_len);
            assert_eq!(found.is_some(), fits, "{words} words in {tcp_len} bytes");
        }
    }
}

#[test]
fn all_combinations_of_control_bits_are_sorted() {
    for flags in 0..0x200_u16 {
        let [fin, syn, rst, ack] = [1, 2, 4, 16].map(|bit| flags & bit != 0);
        let expected = match (syn, rst, ack) {
            (true, ..) if fin => Err(Verdict::FlagsSynFin),
            (true, true, _) => Err(Verdict::FlagsSynRst),
            (true, false, true) => Ok(Kind::SynAck),
            (true, false, false) => Ok(Kind::Syn),
            (false, true, _) => Ok(Kind::Rst),
            (false, false, true) => Ok(Kind::Ack),
            _ if flags & 0x3f == 0 => Err(Verdict::FlagsNull),
            _ => Err(Verdict::FlagsNoAck),
        };
        assert_eq!(kind(flags), expected, "{flags:#x}");
    }
}
