//! What a SYN-ACK says, before the cookie is made.

use crate::{
    abi::{OFFER_ECN, ServiceEntry},
    cookie::{Data, Family, Offer},
    wire::{
        tcp::Flags,
        tcp_options::{ANSWER_WORDS_MAX, AnswerWords, PackedOptions, TcpOptions, Timestamps},
    },
};

/// The parts of a SYN-ACK that follow from the SYN's options and the service.
#[derive(Clone, Copy, Debug)]
pub struct Draft {
    /// What the cookie will remember.
    pub data: Data,
    /// Option words in wire order; our timestamp is still to be filled in.
    pub words: AnswerWords,
    /// Words of the option area, at most [`ANSWER_WORDS_MAX`]: those of the SYN, if that is not
    /// more, so that nearly every answer is as long as its SYN and the frame need not be cut.
    pub option_words: usize,
    /// Control bits.
    pub flags: Flags,
    /// Index of our timestamp in `words`, 0 if there is none.
    timestamp_at: u8,
    /// Whether ECN was agreed on.
    ecn: bool,
}

/// MSS of a peer that sends no such option (RFC 9293 3.7.1).
const fn default_mss(family: Family) -> u16 {
    match family {
        Family::V4 => 536,
        Family::V6 => 1220,
    }
}

impl Draft {
    /// Answers a SYN with these control bits and options, packed into `option_words` words.
    ///
    /// Only what the client offered and the service can do is offered back. Whatever a client
    /// packed into its words, the same options take at most as many here, so the answer fits into
    /// the SYN's frame; only a client that sent no MSS can leave too little room for ours, which
    /// is then left out and taken as the default.
    #[inline(always)]
    pub fn new(
        family: Family,
        flags: Flags,
        option_words: usize,
        client: PackedOptions,
        service: &ServiceEntry,
    ) -> Self {
        let client = TcpOptions::from(client.limited_to(service.offer));
        let mut options = TcpOptions {
            mss: Some(service.mss),
            window_scale: if client.window_scale.is_some() {
                Some(service.window_scale)
            } else {
                None
            },
            sack: client.sack,
            timestamps: client.timestamps.map(|theirs| Timestamps {
                value: 0,
                echo: theirs.value,
            }),
        };
        if client.mss.is_none() && options.word_count() > option_words {
            options.mss = None;
        }
        let timestamp_at = match (client.timestamps.is_some(), options.mss.is_some()) {
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => 2,
        };
        // RFC 3168 6.1.1: a SYN that asks for ECN has both bits, a SYN-ACK that agrees has one. The
        // cookie has no room for it, so it travels in the lowest bit of our timestamp, which the
        // client echoes.
        let ecn = flags.has(Flags::ECE.with(Flags::CWR))
            && service.offer & OFFER_ECN != 0
            && timestamp_at != 0;
        let syn_ack = Flags::SYN.with(Flags::ACK);
        let mss = match client.mss {
            Some(mss) => mss,
            None => default_mss(family),
        };
        Self {
            data: Data::new(
                family,
                Offer {
                    mss,
                    window_scale: client.window_scale,
                    sack: client.sack,
                },
            ),
            words: options.emit(),
            option_words: if option_words > ANSWER_WORDS_MAX {
                options.word_count()
            } else {
                option_words
            },
            flags: if ecn {
                syn_ack.with(Flags::ECE)
            } else {
                syn_ack
            },
            timestamp_at,
            ecn,
        }
    }

    /// Words of [`to_words`](Self::to_words).
    pub const WORDS: usize = ANSWER_WORDS_MAX / 2 + 1;

    /// As machine words.
    #[inline(always)]
    pub const fn to_words(self) -> [u64; Self::WORDS] {
        let [a, b, c, d, e, f] = self.words;
        let rest = self.data.bits() as u64
            | (self.flags.bits() as u64) << 16
            | (self.option_words as u64) << 32
            | (self.timestamp_at as u64) << 40
            | (self.ecn as u64) << 48;
        [pair(a, b), pair(c, d), pair(e, f), rest]
    }

    /// From [`to_words`](Self::to_words).
    #[inline(always)]
    pub const fn from_words([ab, cd, ef, rest]: [u64; Self::WORDS]) -> Self {
        Self {
            data: Data::from_bits(rest as u16),
            words: [
                ab as u32,
                (ab >> 32) as u32,
                cd as u32,
                (cd >> 32) as u32,
                ef as u32,
                (ef >> 32) as u32,
            ],
            option_words: (rest >> 32) as u8 as usize,
            flags: Flags::from_bits((rest >> 16) as u16),
            timestamp_at: (rest >> 40) as u8,
            ecn: (rest >> 48) & 1 != 0,
        }
    }

    /// Fills in our timestamp, `clock`, which must be even.
    #[inline(always)]
    pub fn stamp(&mut self, clock: u32) {
        let value = (clock | u32::from(self.ecn)).to_be();
        match self.timestamp_at {
            1 => self.words[1] = value,
            2 => self.words[2] = value,
            _ => {}
        }
    }
}

#[inline(always)]
const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

/// Whether ECN was agreed on, by the timestamp of ours that a client echoes.
#[inline(always)]
pub const fn echoed_ecn(echo: u32) -> bool {
    echo & 1 != 0
}

#[cfg(test)]
mod tests;
