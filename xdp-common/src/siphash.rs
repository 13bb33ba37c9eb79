//! SipHash-2-4 over short messages that are already in registers (Aumasson and Bernstein,
//! "SipHash: a fast short-input PRF", 2012).
//!
//! The data path authenticates cookies with it. It is written out here, and not taken from a
//! library, because it has to be inlined, without a buffer, into a BPF program; the tests hold it
//! against the `siphasher` crate.

/// A SipHash-2-4 computation.
#[derive(Clone, Copy)]
pub struct SipHash {
    v: [u64; 4],
}

impl SipHash {
    /// Starts with a 128-bit key.
    #[inline(always)]
    pub const fn new(key: [u64; 2]) -> Self {
        let [k0, k1] = key;
        Self {
            v: [
                k0 ^ 0x736f_6d65_7073_6575,
                k1 ^ 0x646f_7261_6e64_6f6d,
                k0 ^ 0x6c79_6765_6e65_7261,
                k1 ^ 0x7465_6462_7974_6573,
            ],
        }
    }

    /// Adds eight bytes of the message, as a little-endian word.
    #[inline(always)]
    pub const fn word(mut self, word: u64) -> Self {
        self.v[3] ^= word;
        self = self.round().round();
        self.v[0] ^= word;
        self
    }

    /// Adds the last `len % 8` bytes of a message of `len` bytes, as a little-endian word with
    /// zeroes above, and returns the hash.
    #[inline(always)]
    pub const fn finish(self, tail: u64, len: u8) -> u64 {
        let mut state = self.word(tail | (len as u64) << 56);
        state.v[2] ^= 0xff;
        let [v0, v1, v2, v3] = state.round().round().round().round().v;
        v0 ^ v1 ^ v2 ^ v3
    }

    #[inline(always)]
    const fn round(self) -> Self {
        let [mut v0, mut v1, mut v2, mut v3] = self.v;
        v0 = v0.wrapping_add(v1);
        v2 = v2.wrapping_add(v3);
        v1 = v1.rotate_left(13) ^ v0;
        v3 = v3.rotate_left(16) ^ v2;
        v0 = v0.rotate_left(32).wrapping_add(v3);
        v2 = v2.wrapping_add(v1);
        v3 = v3.rotate_left(21) ^ v0;
        v1 = v1.rotate_left(17) ^ v2;
        v2 = v2.rotate_left(32);
        Self {
            v: [v0, v1, v2, v3],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::hash::Hasher;

    use proptest::prelude::*;

    use super::SipHash;

    fn ours(key: [u64; 2], message: &[u8]) -> u64 {
        let mut words = message.chunks_exact(8);
        let state = words.by_ref().fold(SipHash::new(key), |state, word| {
            state.word(u64::from_le_bytes(word.try_into().unwrap()))
        });
        let mut tail = [0; 8];
        tail[..words.remainder().len()].copy_from_slice(words.remainder());
        state.finish(u64::from_le_bytes(tail), message.len() as u8)
    }

    /// Appendix A of the SipHash paper.
    #[test]
    fn paper_vector() {
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let message: Vec<u8> = (0..15).collect();
        assert_eq!(ours(key, &message), 0xa129_ca61_49be_45e5);
    }

    proptest! {
        #[test]
        fn agrees_with_the_reference_crate(key: [u64; 2], message in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut reference = siphasher::sip::SipHasher24::new_with_keys(key[0], key[1]);
            reference.write(&message);
            prop_assert_eq!(ours(key, &message), reference.finish());
        }
    }
}
