//! Links calls to kernel functions, which aya 0.14 does not: the data path calls a helper that
//! does not exist, and its number is replaced here, in the object's bytes, by the function's BTF
//! id.
//!
//! Delete this module, and the magic number in the data path, when aya is upgraded to a version
//! that links kernel functions itself (0.15 does, but needs rustc 1.98).

use std::{error::Error, fmt};

use xdp_common::abi::KFUNC_SK_ASSIGN_TCP_REQSK;

/// A kernel function the data path calls, and how the object marks the call.
#[derive(Clone, Copy, Debug)]
pub struct Kfunc {
    /// The function's name in the kernel's BTF.
    pub name: &'static str,
    /// The helper number that stands for it in the object.
    pub magic: u32,
    /// Calls in the object.
    pub calls: usize,
}

/// Turns a segment with a cookie that was checked into a request socket (Linux 6.9).
pub const ASSIGN_TCP_REQSK: Kfunc = Kfunc {
    name: "bpf_sk_assign_tcp_reqsk",
    magic: KFUNC_SK_ASSIGN_TCP_REQSK,
    calls: 1,
};

/// `BPF_JMP | BPF_CALL` of linux/bpf_common.h.
const CALL: u8 = 0x85;

/// `BPF_PSEUDO_KFUNC_CALL` of linux/bpf.h, in the upper half (`src_reg`) of the second byte.
const SRC_REG_KFUNC: u8 = 2 << 4;

/// The object does not hold the calls it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnexpectedCalls {
    name: &'static str,
    found: usize,
    expected: usize,
}

impl fmt::Display for UnexpectedCalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the eBPF object holds {} calls of {}, expected {}: was it built from this source?",
            self.found, self.name, self.expected
        )
    }
}

impl Error for UnexpectedCalls {}

impl Kfunc {
    /// Replaces the calls in the object by calls of the kernel function with BTF id `btf_id`.
    ///
    /// # Errors
    /// Fails when the object does not hold exactly the expected number of calls.
    pub fn link(self, object: &mut [u8], btf_id: u32) -> Result<(), UnexpectedCalls> {
        let marked = instruction(0, self.magic);
        let linked = instruction(SRC_REG_KFUNC, btf_id);
        // Instructions are eight bytes and their sections aligned to as much (ELF, .text*).
        let calls = object
            .chunks_exact_mut(marked.len())
            .filter(|bytes| **bytes == marked);
        let mut found = 0;
        for call in calls {
            call.copy_from_slice(&linked);
            found += 1;
        }
        if found == self.calls {
            return Ok(());
        }
        Err(UnexpectedCalls {
            name: self.name,
            found,
            expected: self.calls,
        })
    }
}

/// A call instruction: opcode, registers, offset (0), immediate.
fn instruction(registers: u8, immediate: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[0] = CALL;
    bytes[1] = registers;
    bytes[4..].copy_from_slice(&immediate.to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKED: [u8; 8] = [0x85, 0, 0, 0, 0x01, 0, 0xed, 0x5e];

    fn object(calls: usize) -> Vec<u8> {
        let mut object = vec![0x55; 16];
        for _ in 0..calls {
            object.extend(MARKED);
            object.extend([0; 8]);
        }
        object
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_call_and_nothing_else_is_replaced() {
        let mut linked = object(1);
        ASSIGN_TCP_REQSK.link(&mut linked, 0x0001_86a0).unwrap();
        let mut expected = object(1);
        expected[16..24].copy_from_slice(&[0x85, 0x20, 0, 0, 0xa0, 0x86, 1, 0]);
        assert_eq!(linked, expected);
    }

    #[test]
    fn any_other_number_of_calls_is_refused() {
        for calls in [0, 2] {
            let error = ASSIGN_TCP_REQSK.link(&mut object(calls), 5).unwrap_err();
            let text = format!("holds {calls} calls of bpf_sk_assign_tcp_reqsk, expected 1");
            assert!(error.to_string().contains(&text), "{error}");
        }
    }

    #[test]
    fn an_unaligned_look_alike_is_data() {
        let mut object = vec![0; 4];
        object.extend(MARKED);
        object.extend([0; 4]);
        assert!(ASSIGN_TCP_REQSK.link(&mut object, 5).is_err());
    }
}
