//! TCP options of the handshake (RFC 9293 3.2, RFC 7323, RFC 2018).

use zerocopy::big_endian::{U16, U32};

use crate::abi::{OFFER_SACK, OFFER_TIMESTAMPS, OFFER_WINDOW_SCALE};

use super::{
    Frame,
    checksum::Sum,
    option_cursor::{Cursor, MSS, SACK_PERMITTED, TIMESTAMPS, WINDOW_SCALE},
    tcp::{HEADER_LEN, Segment},
};

/// Most words that a SYN-ACK's options take, padding to the length of Apple's SYN included.
pub const ANSWER_WORDS_MAX: usize = 6;

/// The option area of a SYN-ACK, in wire order.
pub type AnswerWords = [u32; ANSWER_WORDS_MAX];

/// The timestamps option (RFC 7323 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamps {
    /// The sender's clock.
    pub value: u32,
    /// The clock of the other side that it echoes.
    pub echo: u32,
}

/// The options that a handshake negotiates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// Maximum segment size, bytes.
    pub mss: Option<u16>,
    /// Window scale, as sent.
    pub window_scale: Option<u8>,
    /// Whether selective acknowledgement is permitted.
    pub sack: bool,
    /// Timestamps.
    pub timestamps: Option<Timestamps>,
}

/// `MSS, 4, value`.
const MSS_WORD: u32 = 0x0204_0000;
/// `NOP, WINDOW_SCALE, 3, value`.
const SCALE_WORD: u32 = 0x0103_0300;
/// `NOP, NOP, SACK_PERMITTED, 2`.
const SACK_WORD: u32 = 0x0101_0402;
/// `SACK_PERMITTED, 2, TIMESTAMPS, 10`.
const SACK_TIMESTAMPS_WORD: u32 = 0x0402_080a;
/// `NOP, NOP, TIMESTAMPS, 10`.
pub const TIMESTAMPS_WORD: u32 = 0x0101_080a;
/// `SACK_PERMITTED, 2, END, END`.
const SACK_END_WORD: u32 = 0x0402_0000;

/// The options of a SYN and their sum, if they are laid out as the stacks do it that send nearly
/// all SYNs. `None` for any other layout: then [`Walk`] it.
#[inline(always)]
pub fn common_layout(
    frame: &(impl Frame + ?Sized),
    segment: &Segment,
) -> Option<(PackedOptions, Sum)> {
    let area = segment.l4 + HEADER_LEN;
    match segment.option_words {
        5 => {
            let words = frame.get::<[U32; 5]>(area)?;
            Some((linux(words)?, Sum::default().with(*words)))
        }
        3 => {
            let words = frame.get::<[U32; 3]>(area)?;
            Some((windows(words)?, Sum::default().with(*words)))
        }
        6 => {
            let words = frame.get::<[U32; 6]>(area)?;
            Some((apple(words)?, Sum::default().with(*words)))
        }
        _ => None,
    }
}

/// Linux and Android: MSS, SACK permitted, timestamps, NOP, window scale.
#[inline(always)]
fn linux(words: &[U32; 5]) -> Option<PackedOptions> {
    let [mss, sack_timestamps, value, echo, scale] = words.map(U32::get);
    let fits = is_mss(mss) && sack_timestamps == SACK_TIMESTAMPS_WORD && is_scale(scale);
    fits.then_some(PackedOptions {
        bits: HAS_MSS | HAS_WINDOW_SCALE | HAS_SACK | HAS_TIMESTAMPS | packed(mss, scale),
        value,
        echo,
    })
}

/// Windows: MSS, NOP, window scale, NOP, NOP, SACK permitted.
#[inline(always)]
fn windows(words: &[U32; 3]) -> Option<PackedOptions> {
    let [mss, scale, sack] = words.map(U32::get);
    let fits = is_mss(mss) && is_scale(scale) && sack == SACK_WORD;
    fits.then_some(PackedOptions {
        bits: HAS_MSS | HAS_WINDOW_SCALE | HAS_SACK | packed(mss, scale),
        value: 0,
        echo: 0,
    })
}

/// Apple: MSS, NOP, window scale, NOP, NOP, timestamps, SACK permitted, end.
#[inline(always)]
fn apple(words: &[U32; 6]) -> Option<PackedOptions> {
    let [mss, scale, timestamps, value, echo, sack] = words.map(U32::get);
    let fits = is_mss(mss) && is_scale(scale) && timestamps == TIMESTAMPS_WORD;
    (fits && sack == SACK_END_WORD).then_some(PackedOptions {
        bits: HAS_MSS | HAS_WINDOW_SCALE | HAS_SACK | HAS_TIMESTAMPS | packed(mss, scale),
        value,
        echo,
    })
}

/// The values of an MSS word and a window scale word as [`PackedOptions`] keeps them.
const fn packed(mss: u32, scale: u32) -> u32 {
    (mss & 0xffff) | (scale & 0xff) << 16
}

const fn is_mss(word: u32) -> bool {
    word & 0xffff_0000 == MSS_WORD
}

const fn is_scale(word: u32) -> bool {
    word & 0xffff_ff00 == SCALE_WORD
}

/// Walks a segment's options one by one, as the kernel's `tcp_parse_options` does: an option with an
/// impossible length ends it, an unknown one is skipped, one with a wrong length is ignored.
///
/// It is driven from outside, step by step, because the data path has to loop in the kernel's way.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    cursor: Cursor,
    options: TcpOptions,
}

impl Walk {
    /// Steps after which every walk has ended.
    pub const STEPS_MAX: u32 = Cursor::STEPS_MAX;

    /// Starts at the segment's first option.
    #[inline(always)]
    pub fn new(segment: &Segment) -> Self {
        Self {
            cursor: Cursor::new(segment),
            options: TcpOptions::default(),
        }
    }

    /// Reads one option; `false` if there are no more.
    #[inline(always)]
    pub fn step(&mut self, frame: &(impl Frame + ?Sized)) -> bool {
        self.next(frame).is_some()
    }

    #[inline(always)]
    fn next(&mut self, frame: &(impl Frame + ?Sized)) -> Option<()> {
        let cursor = self.cursor;
        let head = cursor.head(frame)?;
        match head {
            (MSS, 4) => self.options.mss = Some(cursor.get::<U16>(frame, 2)?.get()),
            (WINDOW_SCALE, 3) => {
                self.options.window_scale = Some(cursor.get::<[u8; 1]>(frame, 2)?[0]);
            }
            (SACK_PERMITTED, 2) => self.options.sack = true,
            (TIMESTAMPS, 10) => {
                let value = cursor.get::<U32>(frame, 2)?.get();
                let echo = cursor.get::<U32>(frame, 6)?.get();
                self.options.timestamps = Some(Timestamps { value, echo });
            }
            _ => {}
        }
        self.cursor.advance(head.1);
        Some(())
    }

    /// What was found so far.
    #[inline(always)]
    pub const fn options(&self) -> TcpOptions {
        self.options
    }
}

/// Reads the options of a segment.
pub fn parse(frame: &(impl Frame + ?Sized), segment: &Segment) -> TcpOptions {
    if let Some((options, _)) = common_layout(frame, segment) {
        return options.into();
    }
    let mut walk = Walk::new(segment);
    while walk.step(frame) {}
    walk.options()
}

/// [`TcpOptions`] in three words, of which none is ever undefined.
///
/// The data path passes options on in this form: in an `Option`, a missing value is undefined, and
/// the verifier objects to what the compiler then makes of it.
#[derive(Clone, Copy, Debug)]
pub struct PackedOptions {
    /// MSS in bits 0 to 15, window scale in 16 to 23, which options are there from 24 on.
    bits: u32,
    value: u32,
    echo: u32,
}

const HAS_SHIFT: u32 = 24;
const HAS_WINDOW_SCALE: u32 = (OFFER_WINDOW_SCALE as u32) << HAS_SHIFT;
const HAS_SACK: u32 = (OFFER_SACK as u32) << HAS_SHIFT;
const HAS_TIMESTAMPS: u32 = (OFFER_TIMESTAMPS as u32) << HAS_SHIFT;
const HAS_MSS: u32 = 1 << 31;

impl PackedOptions {
    /// Words of [`to_words`](Self::to_words).
    pub const WORDS: usize = 2;

    /// As machine words.
    #[inline(always)]
    pub const fn to_words(self) -> [u64; Self::WORDS] {
        [
            self.bits as u64 | (self.value as u64) << 32,
            self.echo as u64,
        ]
    }

    /// From [`to_words`](Self::to_words).
    #[inline(always)]
    pub const fn from_words([bits_value, echo]: [u64; Self::WORDS]) -> Self {
        Self {
            bits: bits_value as u32,
            value: (bits_value >> 32) as u32,
            echo: echo as u32,
        }
    }

    /// Only those options that are also among the `OFFER_*` bits of `offer`; the MSS always is.
    #[inline(always)]
    pub const fn limited_to(self, offer: u8) -> Self {
        let kept = (offer as u32) << HAS_SHIFT | HAS_MSS | ((1 << HAS_SHIFT) - 1);
        Self {
            bits: self.bits & kept,
            ..self
        }
    }
}

impl From<TcpOptions> for PackedOptions {
    #[inline(always)]
    fn from(options: TcpOptions) -> Self {
        let mut packed = Self {
            bits: 0,
            value: 0,
            echo: 0,
        };
        if let Some(mss) = options.mss {
            packed.bits |= HAS_MSS | u32::from(mss);
        }
        if let Some(scale) = options.window_scale {
            packed.bits |= HAS_WINDOW_SCALE | u32::from(scale) << 16;
        }
        if options.sack {
            packed.bits |= HAS_SACK;
        }
        if let Some(timestamps) = options.timestamps {
            packed.bits |= HAS_TIMESTAMPS;
            packed.value = timestamps.value;
            packed.echo = timestamps.echo;
        }
        packed
    }
}

impl From<PackedOptions> for TcpOptions {
    #[inline(always)]
    fn from(packed: PackedOptions) -> Self {
        let has = |bit: u32| packed.bits & bit != 0;
        let timestamps = Timestamps {
            value: packed.value,
            echo: packed.echo,
        };
        Self {
            mss: has(HAS_MSS).then_some(packed.bits as u16),
            window_scale: has(HAS_WINDOW_SCALE).then_some((packed.bits >> 16) as u8),
            sack: has(HAS_SACK),
            timestamps: has(HAS_TIMESTAMPS).then_some(timestamps),
        }
    }
}

impl TcpOptions {
    /// Words that [`emit`](Self::emit) writes.
    #[inline(always)]
    pub const fn word_count(&self) -> usize {
        self.mss.is_some() as usize
            + self.window_scale.is_some() as usize
            + if self.timestamps.is_some() {
                3
            } else {
                self.sack as usize
            }
    }

    /// The options as words, each part aligned as the common stacks do it; zero, the end of
    /// options, behind them. Spelled out case by case: the verifier follows an index into an array
    /// much farther than a branch.
    #[inline(always)]
    pub fn emit(&self) -> AnswerWords {
        let scale = self.window_scale.map(|scale| SCALE_WORD | u32::from(scale));
        let mss = self.mss.map(|mss| MSS_WORD | u32::from(mss));
        let words = match (mss, self.timestamps) {
            (Some(mss), Some(Timestamps { value, echo })) => [
                mss,
                self.timestamps_word(),
                value,
                echo,
                scale.unwrap_or(0),
                0,
            ],
            (None, Some(Timestamps { value, echo })) => [
                self.timestamps_word(),
                value,
                echo,
                scale.unwrap_or(0),
                0,
                0,
            ],
            (mss, None) => {
                let [a, b] = match (self.sack, scale) {
                    (true, scale) => [SACK_WORD, scale.unwrap_or(0)],
                    (false, scale) => [scale.unwrap_or(0), 0],
                };
                match mss {
                    Some(mss) => [mss, a, b, 0, 0, 0],
                    None => [a, b, 0, 0, 0, 0],
                }
            }
        };
        words.map(u32::to_be)
    }

    #[inline(always)]
    const fn timestamps_word(&self) -> u32 {
        if self.sack {
            SACK_TIMESTAMPS_WORD
        } else {
            TIMESTAMPS_WORD
        }
    }
}
