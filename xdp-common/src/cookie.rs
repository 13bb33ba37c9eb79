//! The SYN cookie: the initial sequence number of a SYN-ACK that remembers the client's SYN, so
//! that nothing has to be stored until the client has proven that it received it (RFC 4987 3.6).
//!
//! ```text
//!  31                              9   8    5   4      2   1     0
//! +---------------------------------+--------+----------+-------+-------+
//! | SipHash-2-4, truncated: 23 bits | wscale | MSS      | SACK  | epoch |
//! |                                 | class  | class    | perm. | slot  |
//! +---------------------------------+--------+----------+-------+-------+
//! ```
//!
//! The hash covers addresses, ports, the client's initial sequence number and the nine data bits,
//! under the key of an epoch of [`EPOCH_S`] seconds. Two keys are in force: the current epoch's
//! and its neighbour's, told apart by the slot bit. The neighbour is the previous epoch until
//! [`KEY_LEAD_S`] before the next one starts, and from then on the next epoch, so that machines
//! whose clocks differ by less than that accept each other's cookies. A cookie therefore lives for
//! at least `EPOCH_S - KEY_LEAD_S` and at most `2 * EPOCH_S - KEY_LEAD_S` seconds.
//!
//! Whoever sends ACKs blindly hits a valid cookie with probability 2^-23 each, and gains a socket
//! at the server with a client that never asked for it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{siphash::SipHash, tuple::Tuple};

/// Length of a key epoch, seconds. Epochs are counted from the Unix epoch.
pub const EPOCH_S: u64 = 64;

/// How long before an epoch starts its key is accepted, seconds.
pub const KEY_LEAD_S: u64 = 8;

/// Key of one epoch: two little-endian words.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Key(pub [u64; 2]);

impl core::fmt::Debug for Key {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Key(secret)")
    }
}

/// The address family, as far as the cookie is concerned: how much of an address it covers, and
/// which MSS values are worth remembering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What the client offered in its SYN and the cookie remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Maximum segment size the client takes, bytes; rounded down to a class by the cookie.
    pub mss: u16,
    /// Window scale, 0 to 14; `None` where the client does not scale (RFC 7323 2.2).
    pub window_scale: Option<u8>,
    /// Whether the client permits selective acknowledgement (RFC 2018 2).
    pub sack: bool,
}

/// A cookie and what the same hash yields besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// The initial sequence number of the SYN-ACK.
    pub isn: u32,
    /// Offset of this connection's timestamps, even, so that they do not tell the machine's uptime
    /// (RFC 7323 5.4).
    pub timestamp_offset: u32,
}

const SLOT_BIT: u32 = 1;
const SACK_BIT: u32 = 1 << 1;
const MSS_SHIFT: u32 = 2;
const MSS_MASK: u32 = 0b111;
const WINDOW_SCALE_SHIFT: u32 = 5;
const WINDOW_SCALE_MASK: u32 = 0b1111;
const WINDOW_SCALE_NONE: u32 = 15;
const DATA_MASK: u32 = (1 << 9) - 1;

/// Largest window scale (RFC 7323 2.3).
pub const WINDOW_SCALE_MAX: u8 = 14;

/// MSS by class for IPv4. 536 is the default without the option (RFC 9293 3.7.1) and the least the
/// kernel takes; 1460 Ethernet, 1440 and 1400 tunnels and PPPoE, 1360 and 1300 VPNs and mobile
/// networks, 1220 the IPv6 minimum behind translators, 8960 jumbo frames.
const MSS_V4: [u16; 8] = [536, 1220, 1300, 1360, 1400, 1440, 1460, 8960];

/// MSS by class for IPv6. 1220 is what the minimum MTU leaves (RFC 8200 5) and the least the kernel
/// takes; 1440 Ethernet, 1420 to 1280 PPPoE and tunnels, 8940 jumbo frames.
const MSS_V6: [u16; 8] = [1220, 1280, 1340, 1380, 1400, 1420, 1440, 8940];

/// Every class is a multiple of this, which makes the tables below short.
const MSS_STEP: u16 = 20;

/// Class by `mss / MSS_STEP`, up to the highest class. A table, because the verifier would follow
/// each comparison of a search both ways, and all that comes after once more for each class.
static MSS_CLASS_V4: [u8; 512] = mss_classes(MSS_V4);
static MSS_CLASS_V6: [u8; 512] = mss_classes(MSS_V6);

const fn mss_classes(classes: [u16; 8]) -> [u8; 512] {
    let mut table = [0; 512];
    let mut i = 0;
    while i < table.len() {
        let mut class = 0;
        while class < 7 && i as u16 * MSS_STEP >= classes[class + 1] {
            class += 1;
        }
        table[i] = class as u8;
        i += 1;
    }
    table
}

const _: () = {
    let mut class = 1;
    while class < 8 {
        assert!(MSS_V4[class].is_multiple_of(MSS_STEP));
        assert!(MSS_V6[class].is_multiple_of(MSS_STEP));
        assert!(MSS_V4[class] / MSS_STEP < 512 && MSS_V6[class] / MSS_STEP < 512);
        class += 1;
    }
};

/// An [`Offer`] as the cookie's data bits, the slot's left open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data(u32);

impl Data {
    /// Rounds the MSS down to a class; the rest is kept exactly.
    #[inline(always)]
    pub fn new(family: Family, offer: Offer) -> Self {
        Self(encode(family, offer))
    }

    /// The nine bits.
    #[inline(always)]
    pub const fn bits(self) -> u16 {
        self.0 as u16
    }

    /// From [`bits`](Self::bits); more than nine are ignored.
    #[inline(always)]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits as u32 & DATA_MASK)
    }
}

/// Makes the cookie that answers a SYN. `tuple` is the SYN's; `slot` is the epoch's, 0 or 1.
#[inline(always)]
pub fn issue(
    family: Family,
    key: Key,
    slot: u32,
    tuple: &Tuple,
    client_isn: u32,
    data: Data,
) -> Cookie {
    sealed(family, key, tuple, client_isn, data.0 | (slot & SLOT_BIT))
}

/// Checks the cookie that a client returned. `tuple` and `client_isn` are of the segment from the
/// client; `isn` is its acknowledgement number less one.
#[inline(always)]
pub fn verify(
    family: Family,
    keys: &[Key; 2],
    tuple: &Tuple,
    client_isn: u32,
    isn: u32,
) -> Option<(Cookie, Offer)> {
    let key = if isn & SLOT_BIT == 0 {
        keys[0]
    } else {
        keys[1]
    };
    let cookie = sealed(family, key, tuple, client_isn, isn & DATA_MASK);
    (cookie.isn == isn).then(|| (cookie, decode(family, isn)))
}

#[inline(always)]
fn sealed(family: Family, key: Key, tuple: &Tuple, client_isn: u32, data: u32) -> Cookie {
    let hash = SipHash::new(key.0);
    let last = u64::from(tuple.ports()) | u64::from(client_isn) << 32;
    let hash = match family {
        Family::V4 => hash
            .word(u64::from(tuple.src.v4_word()) | u64::from(tuple.dst.v4_word()) << 32)
            .word(last)
            .finish(u64::from(data), 18),
        Family::V6 => hash
            .word(tuple.src.hi)
            .word(tuple.src.lo)
            .word(tuple.dst.hi)
            .word(tuple.dst.lo)
            .word(last)
            .finish(u64::from(data), 42),
    };
    Cookie {
        isn: (hash as u32) & !DATA_MASK | data,
        timestamp_offset: (hash >> 32) as u32 & !1,
    }
}

#[inline(always)]
fn encode(family: Family, offer: Offer) -> u32 {
    let scale = match offer.window_scale {
        // RFC 7323 2.3: a larger shift is taken as 14.
        Some(scale) if scale > WINDOW_SCALE_MAX => u32::from(WINDOW_SCALE_MAX),
        Some(scale) => u32::from(scale),
        None => WINDOW_SCALE_NONE,
    };
    let sack = if offer.sack { SACK_BIT } else { 0 };
    scale << WINDOW_SCALE_SHIFT | mss_class(family, offer.mss) << MSS_SHIFT | sack
}

#[inline(always)]
fn decode(family: Family, data: u32) -> Offer {
    let class = (data >> MSS_SHIFT & MSS_MASK) as usize;
    let scale = data >> WINDOW_SCALE_SHIFT & WINDOW_SCALE_MASK;
    Offer {
        mss: match family {
            Family::V4 => MSS_V4[class],
            Family::V6 => MSS_V6[class],
        },
        window_scale: (scale != WINDOW_SCALE_NONE).then_some(scale as u8),
        sack: data & SACK_BIT != 0,
    }
}

/// The largest class not above `mss`, or the lowest.
#[inline(always)]
fn mss_class(family: Family, mss: u16) -> u32 {
    let step = (mss / MSS_STEP) as usize;
    let step = if step > 511 { 511 } else { step };
    let class = match family {
        Family::V4 => MSS_CLASS_V4[step],
        Family::V6 => MSS_CLASS_V6[step],
    };
    u32::from(class)
}

#[cfg(test)]
mod tests;
