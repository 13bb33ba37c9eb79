//! Addresses as numbers, and what clients are told apart by.

use std::net::IpAddr;

/// Bits of the network part of an address: 0 to 128, IPv4 as IPv4-mapped.
const V4_NETWORK: u32 = 96 + 24;
const V6_NETWORK: u32 = 64;

/// An address as a number, IPv4 as IPv4-mapped.
pub(super) const fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The /24 (IPv4) or /64 (IPv6) of an address.
pub(super) const fn network(address: IpAddr) -> u128 {
    let len = if is_v4(address) {
        V4_NETWORK
    } else {
        V6_NETWORK
    };
    bits(address) & (u128::MAX << (128 - len))
}

/// What stands for one client where it must not help to have many addresses: the IPv4 address, or
/// the /64, which is the least that an IPv6 site gets (RFC 6177).
pub(super) const fn host(address: IpAddr) -> u128 {
    if is_v4(address) {
        bits(address)
    } else {
        network(address)
    }
}

/// High and low half, as words of a hash.
pub(super) const fn words(bits: u128) -> [u64; 2] {
    [(bits >> 64) as u64, bits as u64]
}

/// IPv4, or IPv4-mapped.
pub(super) const fn is_v4(address: IpAddr) -> bool {
    address.to_canonical().is_ipv4()
}
