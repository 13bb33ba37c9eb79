//! A snapshot in which every number differs, for the tests of what is made of it.

use xdp_common::abi::COUNTERS;

use super::*;

/// Packets that start at `base` in the first slot and grow by one.
pub(crate) fn packets(base: u64) -> Packets {
    let mut packets = [0; COUNTERS];
    for (number, packets) in (base..).zip(&mut packets) {
        *packets = number;
    }
    packets
}

pub(crate) fn snapshot() -> Snapshot {
    Snapshot {
        uptime_s: 3725.5,
        key_epoch: 27_000_000,
        reload: Reload {
            successful: true,
            succeeded_unix_s: 1_700_000_000,
        },
        interfaces: vec![InterfaceSnapshot {
            name: "eth0".into(),
            index: 2,
            mode: Mode::Native,
            attached: true,
            packets: packets(1000),
            rates: packets(10),
        }],
        services: vec![ServiceSnapshot {
            name: "web".into(),
            address: "192.0.2.10:443".parse().expect("an address"),
            packets: packets(2000),
        }],
        map_pressure: vec![("SERVICES", 0.25), ("FRAGMENTS", 0.0)],
    }
}
