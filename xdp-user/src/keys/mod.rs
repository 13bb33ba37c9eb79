//! Keys of the SYN cookies: derived from the master secret by epoch, and put in force by the
//! clock. Pure: the time is an argument.

use hkdf::Hkdf;
use sha2::Sha256;
use xdp_common::cookie::{EPOCH_S, KEY_LEAD_S, Key};

use crate::secret::Secret;

mod transition;

pub use transition::{KeyState, steps};

/// What HKDF binds the keys to; the epoch number follows as eight bytes, big-endian.
const INFO: &[u8] = b"levee syn cookie v1";

/// Derives the key of an epoch: HKDF-SHA256 (RFC 5869) without salt, for the master secret is
/// uniformly random.
#[must_use]
pub fn derive(secret: &Secret, epoch: u64) -> Key {
    let mut okm = [0; 16];
    Hkdf::<Sha256>::new(None, secret.bytes())
        .expand_multi_info(&[INFO, &epoch.to_be_bytes()], &mut okm)
        .expect("16 bytes are less than HKDF-SHA256 can give");
    let word = |half: usize| {
        let bytes = okm[half * 8..][..8].try_into();
        u64::from_le_bytes(bytes.expect("eight bytes of sixteen"))
    };
    Key([word(0), word(1)])
}

/// Which epochs' keys are in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The epoch that new cookies are made in.
    pub current: u64,
    /// The other epoch whose cookies are accepted: the previous one, or shortly before the next
    /// epoch starts, that one.
    pub neighbour: u64,
}

impl Schedule {
    /// The schedule at a time, in seconds since the Unix epoch.
    #[must_use]
    pub const fn at(unix_s: u64) -> Self {
        let current = unix_s / EPOCH_S;
        let left_s = EPOCH_S - unix_s % EPOCH_S;
        // Before the first epoch there is none to look back on.
        let next = left_s <= KEY_LEAD_S || current == 0;
        Self {
            current,
            neighbour: if next { current + 1 } else { current - 1 },
        }
    }

    /// The slot of the current epoch's key: the lowest bit of its number.
    #[must_use]
    pub const fn slot(self) -> u32 {
        (self.current & 1) as u32
    }

    /// The keys by slot.
    #[must_use]
    pub fn keys(self, secret: &Secret) -> [Key; 2] {
        let mut keys = [derive(secret, self.current), derive(secret, self.neighbour)];
        if self.slot() == 1 {
            keys.swap(0, 1);
        }
        keys
    }

    /// What the data path should hold.
    #[must_use]
    pub fn state(self, secret: &Secret) -> KeyState {
        KeyState {
            keys: self.keys(secret),
            slot: self.slot(),
            epoch: self.current as u32,
        }
    }
}

#[cfg(test)]
mod tests;
