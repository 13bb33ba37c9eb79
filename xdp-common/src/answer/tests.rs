use proptest::prelude::*;
use zerocopy::IntoBytes as _;

use super::*;
use crate::abi::{OFFER_SACK, OFFER_TIMESTAMPS, OFFER_WINDOW_SCALE};

const EVERYTHING: u8 = OFFER_TIMESTAMPS | OFFER_SACK | OFFER_WINDOW_SCALE | OFFER_ECN;

fn service(offer: u8) -> ServiceEntry {
    ServiceEntry {
        mss: 1460,
        window_scale: 9,
        offer,
        ..ServiceEntry::default()
    }
}

/// One way to write each option that a client has, as short as it goes.
fn written(options: &TcpOptions) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    if let Some(mss) = options.mss {
        parts.push([&[2, 4][..], &mss.to_be_bytes()].concat());
    }
    if let Some(scale) = options.window_scale {
        parts.push(vec![3, 3, scale]);
    }
    if options.sack {
        parts.push(vec![4, 2]);
    }
    if let Some(Timestamps { value, echo }) = options.timestamps {
        parts.push([&[8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat());
    }
    parts
}

/// What a client offers, and in how many words it does: packed tightly, or with padding. The order
/// of options changes no length.
fn client() -> impl Strategy<Value = (TcpOptions, usize)> {
    let parts = any::<(Option<u16>, Option<u8>, bool, Option<u32>)>();
    (parts, 0_usize..=10).prop_map(|((mss, window_scale, sack, value), words)| {
        let timestamps = value.map(|value| Timestamps { value, echo: 0 });
        let options = TcpOptions {
            mss,
            window_scale,
            sack,
            timestamps,
        };
        let least = written(&options).concat().len().div_ceil(4);
        (options, words.max(least))
    })
}

fn syn_flags(ecn: bool) -> Flags {
    if ecn {
        Flags::SYN.with(Flags::ECE).with(Flags::CWR)
    } else {
        Flags::SYN
    }
}

/// The options in a draft's words, read by the test's own eyes.
fn read(draft: &Draft) -> TcpOptions {
    let bytes = draft.words.as_bytes();
    let mut options = TcpOptions::default();
    let mut at = 0;
    while at < draft.option_words * 4 && bytes[at] != 0 {
        let len = if bytes[at] == 1 { 1 } else { bytes[at + 1] };
        let word =
            |offset: usize| u32::from_be_bytes([0, 1, 2, 3].map(|byte| bytes[at + offset + byte]));
        match bytes[at] {
            2 => options.mss = Some(word(0) as u16),
            3 => options.window_scale = Some(bytes[at + 2]),
            4 => options.sack = true,
            8 => {
                options.timestamps = Some(Timestamps {
                    value: word(2),
                    echo: word(6),
                });
            }
            _ => {}
        }
        at += usize::from(len);
    }
    options
}

proptest! {
    #[test]
    fn an_answer_offers_what_both_have_in_the_syns_room(
        (client, words) in client(), offer in 0_u8..16, ecn: bool, clock: u32,
    ) {
        let service = service(offer);
        let packed = PackedOptions::from(client);
        let mut draft = Draft::new(Family::V4, syn_flags(ecn), words, packed, &service);
        let clock = clock & !1;
        draft.stamp(clock);

        prop_assert!(draft.option_words <= words, "longer than the SYN");
        prop_assert!(draft.option_words <= ANSWER_WORDS_MAX);
        prop_assert!(draft.words[draft.option_words..].iter().all(|word| *word == 0));

        let ours = read(&draft);
        let both = |bit: u8, theirs: bool| theirs && offer & bit != 0;
        let stamped = both(OFFER_TIMESTAMPS, client.timestamps.is_some());
        let agreed = ecn && offer & OFFER_ECN != 0 && stamped;
        prop_assert_eq!(ours.sack, both(OFFER_SACK, client.sack));
        let scaled = both(OFFER_WINDOW_SCALE, client.window_scale.is_some());
        prop_assert_eq!(ours.window_scale, scaled.then_some(9));
        let timestamps = client.timestamps.filter(|_| stamped).map(|theirs| Timestamps {
            value: clock | u32::from(agreed),
            echo: theirs.value,
        });
        prop_assert_eq!(ours.timestamps, timestamps);
        prop_assert_eq!(draft.flags.has(Flags::ECE), agreed);
        prop_assert!(draft.flags.has(Flags::SYN.with(Flags::ACK)));
        prop_assert!(!draft.flags.has(Flags::CWR));
        // Only a SYN without MSS can lack the room for ours.
        prop_assert!(ours.mss == Some(1460) || client.mss.is_none() && ours.mss.is_none());
    }
}

#[test]
fn our_mss_is_there_whenever_there_is_room() {
    for words in 1..=10 {
        let none = PackedOptions::from(TcpOptions::default());
        let draft = Draft::new(Family::V4, Flags::SYN, words, none, &service(EVERYTHING));
        assert_eq!(read(&draft).mss, Some(1460), "{words}");
    }
}

#[test]
fn ecn_is_read_back_from_the_echo() {
    assert!(echoed_ecn(7));
    assert!(!echoed_ecn(8));
}
