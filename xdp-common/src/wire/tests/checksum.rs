use proptest::prelude::*;

use crate::{
    cookie::Family,
    tuple::Addr,
    wire::{
        checksum::Sum,
        ipv4::Ipv4Header,
        tcp::{self, Flags, checksum_fits, pseudo_header},
    },
};
use zerocopy::IntoBytes as _;

/// RFC 1071 4.1, word by word.
fn naive(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Whether two checksums mean the same: zero has two forms in ones' complement.
fn same(ours: [u8; 2], naive: u16) -> bool {
    let ours = u16::from_be_bytes(ours);
    ours == naive || (ours == 0 || ours == 0xffff) && (naive == 0 || naive == 0xffff)
}

#[test]
fn the_example_of_rfc_1071() {
    let bytes = [0x00_u8, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(Sum::default().with(bytes).folded(), [0xdd, 0xf2]);
    assert_eq!(Sum::default().with(bytes).checksum(), [0x22, 0x0d]);
}

#[test]
fn every_carry_is_folded() {
    let ones = [0xff_u8; 40];
    assert_eq!(Sum::default().with(ones).folded(), [0xff, 0xff]);
    let many = (0..1000).fold(Sum::default(), |sum, _| sum.with(ones));
    assert_eq!(many.folded(), [0xff, 0xff]);
}

proptest! {
    #[test]
    fn a_sum_agrees_with_the_naive_one(bytes: [u8; 40], odd_words: [u8; 6]) {
        prop_assert!(same(Sum::default().with(bytes).checksum(), naive(&bytes)));
        prop_assert!(same(Sum::default().with(odd_words).checksum(), naive(&odd_words)));
    }

    #[test]
    fn parts_add_up(a: [u8; 20], b: [u8; 6], number: u16) {
        let whole = [&a[..], &b, &number.to_be_bytes()].concat();
        let sum = Sum::default().with(a).with_sum(Sum::default().with(b)).with_be16(number);
        prop_assert!(same(sum.checksum(), naive(&whole)));
    }

    #[test]
    fn words_count_as_their_bytes(bytes: [u8; 4]) {
        let sum = Sum::default().with_word(u32::from_ne_bytes(bytes));
        prop_assert!(same(sum.checksum(), naive(&bytes)));
    }

    #[test]
    fn an_ipv4_header_has_its_checksum(src: [u8; 4], dst: [u8; 4], total_len: u16) {
        let header = Ipv4Header::tcp(src, dst, total_len);
        prop_assert!(same([0; 2], naive(header.as_bytes())));
    }

    #[test]
    fn a_pseudo_header_is_that_of_the_rfcs(v4: [[u8; 4]; 2], v6: [[u8; 16]; 2], len: u16) {
        let [src, dst] = v4.map(Addr::v4);
        let sum = pseudo_header(Family::V4, src, dst, len.into());
        let bytes = [&v4.concat()[..], &[0, 6], &len.to_be_bytes()].concat();
        prop_assert!(same(sum.checksum(), naive(&bytes)));
        let [src, dst] = v6.map(|bytes| Addr::from(std::net::IpAddr::from(bytes)));
        let sum = pseudo_header(Family::V6, src, dst, len.into());
        let bytes = [&v6.concat()[..], &u32::from(len).to_be_bytes(), &[0, 0, 0, 6]].concat();
        prop_assert!(same(sum.checksum(), naive(&bytes)));
    }

    #[test]
    fn only_a_right_or_a_partial_checksum_fits(
        v4: [[u8; 4]; 2], ports: [u16; 2], seq: u32, bit in 0_u32..16,
    ) {
        let [src, dst] = v4.map(Addr::v4);
        let pseudo = pseudo_header(Family::V4, src, dst, 20);
        let mut header = tcp::header(ports[0], ports[1], seq, 0, Flags::SYN, 0, 1000);
        header.checksum = pseudo.with_sum(Sum::default().with(header)).checksum();
        let right = header.checksum;
        prop_assert!(checksum_fits(pseudo, Sum::default().with(header), right));
        header.checksum = (u16::from_be_bytes(right) ^ 1 << bit).to_be_bytes();
        if header.checksum != pseudo.folded() {
            prop_assert!(!checksum_fits(pseudo, Sum::default().with(header), header.checksum));
        }
        header.checksum = pseudo.folded();
        prop_assert!(checksum_fits(pseudo, Sum::default().with(header), header.checksum));
    }
}
