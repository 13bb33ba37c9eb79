//! The service table's hash, shared by the controller that fills it and the data path that reads it.

use crate::{
    abi::{BUCKETS, KIND_EMPTY, ServiceBucket, ServiceEntry},
    tuple::Addr,
};

/// The bucket of a generation in which `(addr, port)` lives.
///
/// The keys are the operator's, not an attacker's: packets choose what is looked up, never what is
/// stored, and a bucket is bounded. So the hash need only spread well for some seed.
#[inline(always)]
pub const fn bucket(seed: u64, addr: Addr, port: u16) -> u32 {
    const K1: u64 = 0xff51_afd7_ed55_8ccd;
    const K2: u64 = 0xc4ce_b9fe_1a85_ec53;
    let mixed = (addr.hi ^ seed).wrapping_mul(K1) ^ addr.lo ^ (port as u64);
    let mixed = (mixed ^ mixed >> 32).wrapping_mul(K2);
    (mixed >> (64 - BUCKETS.trailing_zeros())) as u32
}

/// The entry for `(addr, port)` in its bucket.
#[inline(always)]
pub fn find(bucket: &ServiceBucket, addr: Addr, port: u16) -> Option<&ServiceEntry> {
    for entry in &bucket.entries {
        if entry.kind == KIND_EMPTY {
            return None;
        }
        if entry.addr.lo == addr.lo && entry.port == port && entry.addr.hi == addr.hi {
            return Some(entry);
        }
    }
    None
}
