use proptest::prelude::*;

use crate::{
    abi::{OFFER_ECN, OFFER_SACK, OFFER_TIMESTAMPS, OFFER_WINDOW_SCALE},
    wire::{
        Datagram, Fragment,
        tcp::{self, Flags, Segment},
        tcp_options::{PackedOptions, TcpOptions, Timestamps, Walk, common_layout, parse},
    },
};
use zerocopy::IntoBytes as _;

const L4: usize = 34;

/// A frame whose TCP header has this option area.
fn frame(area: &[u8]) -> (Vec<u8>, Segment) {
    let header = tcp::header(1, 2, 3, 4, Flags::SYN, area.len() / 4, 5);
    let mut frame = vec![0xee; L4];
    frame.extend(header.as_bytes());
    frame.extend(area);
    let datagram = Datagram {
        src: Default::default(),
        dst: Default::default(),
        l4: L4,
        end: frame.len(),
        fragment: Fragment::Whole,
    };
    let segment = Segment::new(&header, &datagram).unwrap();
    // What follows must not be read.
    frame.extend([2, 4, 0xff, 0xff]);
    (frame, segment)
}

fn walked(area: &[u8]) -> TcpOptions {
    let (frame, segment) = frame(area);
    let mut walk = Walk::new(&segment);
    let mut steps = 0;
    while walk.step(&frame[..]) {
        steps += 1;
        assert!(steps <= Walk::STEPS_MAX);
    }
    walk.options()
}

/// The options as an independent reading of the kernel's rules finds them.
fn naive(mut area: &[u8]) -> TcpOptions {
    let mut options = TcpOptions::default();
    while let [kind, rest @ ..] = area {
        area = match (*kind, rest) {
            (0, _) => break,
            (1, _) => rest,
            (_, [len, ..]) if *len >= 2 && usize::from(*len) <= area.len() => {
                let (option, behind) = area.split_at(usize::from(*len));
                note(&mut options, option);
                behind
            }
            _ => break,
        };
    }
    options
}

fn note(options: &mut TcpOptions, option: &[u8]) {
    match *option {
        [2, 4, a, b] => options.mss = Some(u16::from_be_bytes([a, b])),
        [3, 3, scale] => options.window_scale = Some(scale),
        [4, 2] => options.sack = true,
        [8, 10, a, b, c, d, e, f, g, h] => {
            options.timestamps = Some(Timestamps {
                value: u32::from_be_bytes([a, b, c, d]),
                echo: u32::from_be_bytes([e, f, g, h]),
            });
        }
        _ => {}
    }
}

/// Option areas that are mostly sensible, and padded to a word.
pub(crate) fn plausible() -> impl Strategy<Value = Vec<u8>> {
    let option = prop_oneof![
        Just(vec![1]),
        any::<[u8; 2]>().prop_map(|[a, b]| vec![2, 4, a, b]),
        any::<u8>().prop_map(|scale| vec![3, 3, scale]),
        Just(vec![4, 2]),
        any::<[u8; 8]>().prop_map(|clocks| [&[8, 10][..], &clocks].concat()),
        any::<(u8, u8)>().prop_map(|(kind, len)| vec![kind, len]),
    ];
    prop::collection::vec(option, 0..8).prop_map(|options| {
        let mut area = options.concat();
        area.truncate(40);
        area.resize(area.len().next_multiple_of(4), 0);
        area
    })
}

fn options() -> impl Strategy<Value = TcpOptions> {
    let timestamps =
        prop::option::of(any::<(u32, u32)>().prop_map(|(value, echo)| Timestamps { value, echo }));
    let parts = (
        any::<Option<u16>>(),
        any::<Option<u8>>(),
        any::<bool>(),
        timestamps,
    );
    parts.prop_map(|(mss, window_scale, sack, timestamps)| TcpOptions {
        mss,
        window_scale,
        sack,
        timestamps,
    })
}

proptest! {
    #[test]
    fn the_walk_agrees_with_the_naive_one(words in 0_usize..=10, bytes: [u8; 40]) {
        let area = &bytes[..words * 4];
        prop_assert_eq!(walked(area), naive(area));
    }

    #[test]
    fn the_walk_agrees_on_plausible_areas(area in plausible()) {
        prop_assert_eq!(walked(&area), naive(&area));
        let (frame, segment) = frame(&area);
        prop_assert_eq!(parse(&frame[..], &segment), naive(&area));
    }

    #[test]
    fn common_layouts_are_read_as_walked(mss: u16, scale: u8, value: u32, echo: u32) {
        for area in common(mss, scale, value, echo) {
            let (frame, segment) = frame(&area);
            let found = common_layout(&frame[..], &segment).map(|(options, _)| TcpOptions::from(options));
            prop_assert_eq!(found, Some(walked(&area)));
        }
    }

    /// One byte changed anywhere: the layout is no longer recognised, or still means the same.
    #[test]
    fn nearly_common_layouts_are_not_misread(at in 0_usize..24, byte: u8) {
        for mut area in common(1460, 7, 1, 2) {
            let at = at % area.len();
            area[at] = byte;
            let (frame, segment) = frame(&area);
            if let Some((found, _)) = common_layout(&frame[..], &segment) {
                prop_assert_eq!(TcpOptions::from(found), naive(&area));
            }
        }
    }

    #[test]
    fn packing_loses_nothing(options in options()) {
        prop_assert_eq!(TcpOptions::from(PackedOptions::from(options)), options);
    }

    #[test]
    fn a_limit_takes_only_what_is_not_offered(options in options(), offer in 0_u8..16) {
        let limited = TcpOptions::from(PackedOptions::from(options).limited_to(offer));
        let expected = TcpOptions {
            mss: options.mss,
            window_scale: options.window_scale.filter(|_| offer & OFFER_WINDOW_SCALE != 0),
            sack: options.sack && offer & OFFER_SACK != 0,
            timestamps: options.timestamps.filter(|_| offer & OFFER_TIMESTAMPS != 0),
        };
        prop_assert_eq!(limited, expected, "ECN is {}", offer & OFFER_ECN);
    }

    #[test]
    fn what_is_emitted_is_read_back(options in options()) {
        let words = options.emit();
        let count = options.word_count();
        prop_assert!(words[count..].iter().all(|word| *word == 0));
        prop_assert_eq!(walked(&words.as_bytes()[..count * 4]), options);
    }
}

/// The option areas of Linux, Windows and Apple.
fn common(mss: u16, scale: u8, value: u32, echo: u32) -> [Vec<u8>; 3] {
    let [a, b] = mss.to_be_bytes();
    let clocks = [value.to_be_bytes(), echo.to_be_bytes()].concat();
    let mss: &[u8] = &[2, 4, a, b];
    [
        [mss, &[4, 2, 8, 10], &clocks, &[1, 3, 3, scale]].concat(),
        [mss, &[1, 3, 3, scale, 1, 1, 4, 2]].concat(),
        [mss, &[1, 3, 3, scale, 1, 1, 8, 10], &clocks, &[4, 2, 0, 0]].concat(),
    ]
}
