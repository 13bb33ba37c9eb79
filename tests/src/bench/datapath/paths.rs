//! Which packets are timed.
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::{Context as _, Result};
use xdp_common::{
    cookie::Family,
    splice::flow::{Flow, Seen},
    tuple::Addr,
    verdict::{Action, Verdict},
};

use crate::{
    bench::restored::Spread,
    fixtures::{self, flag, given, spliced},
    netns::Netns,
    packet::Packet,
};

/// One path through the data path.
pub(super) struct Path {
    pub(super) name: &'static str,
    pub(super) frame: Vec<u8>,
    /// What the data path must make of the frame.
    pub(super) verdict: Verdict,
    /// Which data path is timed.
    pub(super) rig: Which,
    /// What differs from packet to packet.
    pub(super) spread: Option<Spread>,
}

/// A data path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// As is the default.
    Checked,
    /// One that does not check the TCP checksum of SYNs.
    Unchecked,
    /// One with [`FEW`] spliced connections and one of each family.
    Spliced,
    /// One with [`MANY`] spliced connections.
    Crowded,
}

/// Spliced connections in the table, a power of two.
pub(super) const FEW: u32 = 1 << 10;
/// As [`FEW`].
pub(super) const MANY: u32 = 1 << 20;

impl Path {
    /// Whether the data path changes the frame, which then has to be restored for the next run.
    pub(super) const fn is_changed(&self) -> bool {
        match self.verdict {
            Verdict::Handshake => false,
            verdict => matches!(verdict.action(), Action::Reply | Action::Redirect),
        }
    }
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
            rig: if check_syn_checksum {
                Which::Checked
            } else {
                Which::Unchecked
            },
            spread: None,
        });
    }
    let segment = Packet::new(traffic.client, given::service(Family::V4), flag::ACK);
    paths.push(Path {
        name: "established_v4",
        frame: segment.padded(),
        verdict: Verdict::Connection,
        rig: Which::Checked,
        spread: None,
    });
    paths.extend(spliced()?);
    Ok(paths)
}

/// Paths of spliced connections: name, and the fixture's name.
pub(super) const SPLICED: [(&str, &str); 11] = [
    ("to_target_v4", "to_target_v4_timestamps"),
    ("to_target_v6", "to_target_v6_timestamps"),
    ("to_target_v4_sack", "to_target_v4_timestamps_sack_1"),
    ("to_target_v4_odd_options", "to_target_v4_timestamps_odd"),
    ("to_client_v4", "to_client_v4_timestamps"),
    ("to_client_v6", "to_client_v6_timestamps"),
    ("icmp_error_v4", "icmp_to_client_v4_fragmentation_needed"),
    ("handshake_v4", "no_flow_v4_cookie"),
    ("syn_spliced_v4", "no_flow_v4_syn"),
    ("ack_random_spliced_v4", "no_flow_v4_cookie_wrong"),
    ("pass_other_spliced", "no_flow_v4_of_target"),
];

fn spliced() -> Result<Vec<Path>> {
    let mut paths = Vec::new();
    for (name, fixture) in SPLICED {
        let fixture = spliced::find(fixture)
            .with_context(|| format!("{name}: there is no fixture {fixture}"))?;
        paths.push(Path {
            name,
            frame: fixture.frame,
            verdict: fixture.verdict,
            // In the one, the fixtures' connection is there; in the other it is not.
            rig: match fixture.flow {
                Some(_) => Which::Spliced,
                None => Which::Crowded,
            },
            spread: None,
        });
    }
    for (name, from_client, rig, flows) in [
        ("to_target_v4_1k_flows", true, Which::Spliced, FEW),
        ("to_client_v4_1k_flows", false, Which::Spliced, FEW),
        ("to_target_v4_1m_flows", true, Which::Crowded, MANY),
        ("to_client_v4_1m_flows", false, Which::Crowded, MANY),
    ] {
        let flow = crowd(0);
        let client = SocketAddr::new(flow.client.to_ip(), flow.client_port);
        let (service, target) = (
            spliced::given::service(Family::V4),
            spliced::given::target(Family::V4),
        );
        let (src, dst, verdict, at) = if from_client {
            (client, service, Verdict::ToTarget, SOURCE_V4)
        } else {
            (target, client, Verdict::ToClient, DESTINATION_V4)
        };
        let options = vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
        let segment = Packet {
            options,
            ..Packet::new(src, dst, flag::ACK)
        };
        paths.push(Path {
            name,
            frame: segment.bytes(),
            verdict,
            rig,
            spread: Some(Spread {
                at,
                mask: flows - 1,
            }),
        });
    }
    Ok(paths)
}

/// Offset of the source address in a frame without tags.
const SOURCE_V4: u32 = 26;
/// Offset of the destination address.
const DESTINATION_V4: u32 = 30;

/// One of many connections whose clients' addresses are kept.
pub(super) fn crowd(number: u32) -> Flow {
    /// 100.64.0.0, shared address space (RFC 6598).
    const FIRST: u32 = 0x6440_0000;
    let flow = spliced::given::flow(Family::V4);
    let client = Addr::v4((FIRST + number).to_be_bytes());
    Flow {
        client,
        nat: client,
        nat_port: flow.client_port,
        seen: flow.seen.map(|seen| Seen {
            at_s: spliced::given::CLOCK_S,
            ..seen
        }),
        ..flow
    }
}
