//! What the TCP of backends agrees to, as health checks have seen it: the data path answers clients
//! of spliced services before a backend is asked, and must not promise more than they will do.

use xdp_common::abi::{OFFER_ECN, OFFER_SACK, OFFER_TIMESTAMPS, OFFER_WINDOW_SCALE};

/// The least MSS that hosts take by IPv4 and by IPv6, bytes (RFC 9293 3.7.1, RFC 8200 5).
const MSS_MIN: [u16; 2] = [536, 1220];

/// What one end of a connection agreed to in its handshake, with a peer that offered everything
/// that this machine's kernel offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// `OFFER_*` of `xdp_common::abi`.
    pub flags: u8,
    /// Its window scale, 0 to 14; 0 without [`OFFER_WINDOW_SCALE`].
    pub window_scale: u8,
    /// The segments that may be sent to it, bytes: its MSS, or what the way there lets through.
    pub mss: u16,
}

impl Agreed {
    /// What may be offered before anything is known: what every host does.
    #[must_use]
    pub const fn least(is_ipv6: bool) -> Self {
        Self {
            flags: 0,
            window_scale: 0,
            mss: MSS_MIN[is_ipv6 as usize],
        }
    }

    /// What both do.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            flags: self.flags & other.flags,
            // The smaller one loses large windows; a larger one would round small ones down to 0.
            window_scale: self.window_scale.min(other.window_scale),
            mss: self.mss.min(other.mss),
        }
    }

    /// What it is, for people.
    #[must_use]
    pub fn describe(self) -> String {
        let words = [
            (OFFER_TIMESTAMPS, "timestamps"),
            (OFFER_SACK, "SACK"),
            (OFFER_ECN, "ECN"),
        ];
        let mut text = format!("MSS {}", self.mss);
        if self.flags & OFFER_WINDOW_SCALE != 0 {
            text += &format!(", window scale {}", self.window_scale);
        }
        for (_, word) in words.iter().filter(|(bit, _)| self.flags & bit != 0) {
            text += ", ";
            text += word;
        }
        text
    }
}

/// What all of these do; `None` if there are none.
#[must_use]
pub fn common(all: impl IntoIterator<Item = Agreed>) -> Option<Agreed> {
    all.into_iter().reduce(Agreed::and)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_all_do_is_promised() {
        let full = Agreed {
            flags: OFFER_TIMESTAMPS | OFFER_SACK | OFFER_WINDOW_SCALE,
            window_scale: 7,
            mss: 1460,
        };
        let other = Agreed {
            flags: OFFER_SACK | OFFER_WINDOW_SCALE | OFFER_ECN,
            window_scale: 9,
            mss: 1400,
        };
        let expected = Agreed {
            flags: OFFER_SACK | OFFER_WINDOW_SCALE,
            window_scale: 7,
            mss: 1400,
        };
        assert_eq!(common([full, other]), Some(expected));
        assert_eq!(common([full]), Some(full));
        assert_eq!(common([]), None);
        assert_eq!(full.and(Agreed::least(false)), Agreed::least(false));
        let text = "MSS 1460, window scale 7, timestamps, SACK";
        assert_eq!(full.describe(), text);
        assert_eq!(Agreed::least(true).describe(), "MSS 1220");
    }
}
