//! Which packets are timed.
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::{Context as _, Result};
use xdp_common::{cookie::Family, verdict::Verdict};

use crate::{
    fixtures::{self, flag, given},
    netns::Netns,
    packet::Packet,
};

/// One path through the data path.
pub(super) struct Path {
    pub(super) name: &'static str,
    pub(super) frame: Vec<u8>,
    /// What the data path must make of the frame.
    pub(super) verdict: Verdict,
    /// Whether the data path that checks the TCP checksum of SYNs is timed, as is the default.
    pub(super) check_syn_checksum: bool,
}

/// Paths that are fixtures: name, the fixture's name, and whether SYN checksums are checked.
pub(super) const FIXTURES: [(&str, &str, bool); 20] = [
    ("syn_v4", "syn_v4_linux", true),
    ("syn_v6", "syn_v6_linux", true),
    ("syn_v4_vlan", "syn_v4_vlan_linux", true),
    ("syn_v4_windows", "syn_v4_windows", true),
    ("syn_v4_apple", "syn_v4_apple", true),
    ("syn_v4_no_options", "syn_v4_none", true),
    ("syn_v4_odd_options", "syn_v4_odd_order", true),
    ("syn_v4_no_checksum_check", "syn_v4_linux", false),
    ("syn_v6_no_checksum_check", "syn_v6_linux", false),
    ("syn_bad_checksum_v4", "syn_v4_checksum_wrong", true),
    ("ack_valid_v4", "ack_v4_valid", true),
    ("ack_valid_v6", "ack_v6_valid", true),
    ("ack_random_v4", "ack_v4_random", true),
    ("ack_random_v6", "ack_v6_random", true),
    ("flags_null_v4", "flags_v4_null", true),
    ("fragment_unknown_v4", "fragment_v4_later_unknown", true),
    ("pass_other", "pass_v4_ack_other_address", true),
    ("pass_other_v6", "pass_v6_ack_other_address", true),
    ("pass_udp", "pass_v4_udp", true),
    ("pass_arp", "pass_v4_arp", true),
];

/// A connection to the service that the kernel has a socket for.
pub(super) struct Traffic {
    /// The connection's client end, and what keeps the server's end there.
    client: SocketAddr,
    _sockets: (TcpListener, TcpStream),
}

impl Traffic {
    /// Opens it over the loopback interface of the namespace, which must have no XDP program yet.
    pub(super) fn prepare(netns: &Netns) -> Result<Self> {
        let service = given::service(Family::V4);
        netns.address(service.ip(), 32, "lo")?;
        netns.run(|| {
            let listener = TcpListener::bind(service).context("cannot listen in the namespace")?;
            let stream = TcpStream::connect(service).context("cannot connect in the namespace")?;
            Ok(Self {
                client: stream.local_addr()?,
                _sockets: (listener, stream),
            })
        })
    }
}

/// Every path.
pub(super) fn all(traffic: &Traffic) -> Result<Vec<Path>> {
    let mut paths = Vec::new();
    for (name, fixture, check_syn_checksum) in FIXTURES {
        let fixture = fixtures::find(fixture)
            .with_context(|| format!("{name}: there is no fixture {fixture}"))?;
        paths.push(Path {
            name,
            frame: fixture.frame,
            verdict: fixture.verdict,
            check_syn_checksum,
        });
    }
    let segment = Packet::new(traffic.client, given::service(Family::V4), flag::ACK);
    paths.push(Path {
        name: "established_v4",
        frame: segment.padded(),
        verdict: Verdict::Connection,
        check_syn_checksum: true,
    });
    Ok(paths)
}
