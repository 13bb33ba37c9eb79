use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

const KEYS: [Key; 2] = [Key([1, 2]), Key([3, 4])];

fn tuple(src: IpAddr, dst: IpAddr, src_port: u16, dst_port: u16) -> Tuple {
    Tuple {
        src: src.into(),
        dst: dst.into(),
        src_port,
        dst_port,
    }
}

fn v4() -> impl Strategy<Value = (Family, Tuple)> {
    any::<([u8; 4], [u8; 4], u16, u16)>()
        .prop_map(|(src, dst, sp, dp)| (Family::V4, tuple(src.into(), dst.into(), sp, dp)))
}

fn v6() -> impl Strategy<Value = (Family, Tuple)> {
    any::<([u8; 16], [u8; 16], u16, u16)>()
        .prop_map(|(src, dst, sp, dp)| (Family::V6, tuple(src.into(), dst.into(), sp, dp)))
}

fn offer() -> impl Strategy<Value = Offer> {
    (any::<u16>(), prop::option::of(0u8..=14), any::<bool>()).prop_map(
        |(mss, window_scale, sack)| Offer {
            mss,
            window_scale,
            sack,
        },
    )
}

proptest! {
    #[test]
    fn remembers_the_offer((family, tuple) in prop_oneof![v4(), v6()], isn: u32, slot in 0u32..2, offer in offer()) {
        let cookie = issue(family, KEYS[slot as usize], slot, &tuple, isn, Data::new(family, offer));
        let (same, kept) = verify(family, &KEYS, &tuple, isn, cookie.isn).expect("own cookie");
        prop_assert_eq!(same, cookie);
        prop_assert_eq!(kept.window_scale, offer.window_scale);
        prop_assert_eq!(kept.sack, offer.sack);
        let lowest = match family { Family::V4 => 536, Family::V6 => 1220 };
        prop_assert!(kept.mss <= offer.mss.max(lowest));
        prop_assert_eq!(cookie.timestamp_offset & 1, 0);
    }

    /// Any single bit changed anywhere makes the cookie worthless. The hash is truncated to 23
    /// bits, so a chance hit is possible, but not for these fixed keys within proptest's cases.
    #[test]
    fn covers_every_bit((family, base) in prop_oneof![v4(), v6()], isn: u32, bit in 0usize..64, offer in offer()) {
        let cookie = issue(family, KEYS[0], 0, &base, isn, Data::new(family, offer)).isn;
        let forged = match bit {
            0..16 => verify(family, &KEYS, &Tuple { src_port: base.src_port ^ 1 << bit, ..base }, isn, cookie),
            16..32 => verify(family, &KEYS, &Tuple { dst_port: base.dst_port ^ 1 << (bit - 16), ..base }, isn, cookie),
            _ => verify(family, &KEYS, &base, isn ^ 1 << (bit - 32), cookie),
        };
        prop_assert_eq!(forged, None);
        prop_assert_eq!(verify(family, &KEYS, &base, isn, cookie ^ 1 << (bit % 32)), None);
    }

    #[test]
    fn a_rotated_key_ends_it((family, tuple) in prop_oneof![v4(), v6()], isn: u32, offer in offer()) {
        let cookie = issue(family, KEYS[0], 0, &tuple, isn, Data::new(family, offer)).isn;
        prop_assert_eq!(verify(family, &[Key([5, 6]), KEYS[1]], &tuple, isn, cookie), None);
    }
}

#[test]
fn mss_is_rounded_down_to_a_class() {
    let cases = [
        (Family::V4, 0, 536),
        (Family::V4, 536, 536),
        (Family::V4, 1219, 536),
        (Family::V4, 1452, 1440),
        (Family::V4, 1460, 1460),
        (Family::V4, 65535, 8960),
        (Family::V6, 1220, 1220),
        (Family::V6, 1440, 1440),
        (Family::V6, 65535, 8940),
    ];
    for (family, offered, kept) in cases {
        let offer = Offer {
            mss: offered,
            window_scale: None,
            sack: false,
        };
        assert_eq!(
            decode(family, encode(family, offer)).mss,
            kept,
            "{family:?} {offered}"
        );
    }
}

#[test]
fn a_window_scale_over_14_counts_as_14() {
    let offer = Offer {
        mss: 1460,
        window_scale: Some(200),
        sack: false,
    };
    assert_eq!(
        decode(Family::V4, encode(Family::V4, offer)).window_scale,
        Some(14)
    );
}

#[test]
fn a_key_is_never_printed() {
    assert_eq!(format!("{:?}", Key([77, 88])), "Key(secret)");
}
