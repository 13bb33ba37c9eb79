//! A flood is over at the XDP program: clients get through, and the kernel's stack sees none of it.

use std::{net::SocketAddr, time::Duration};

use levee_tests::{
    client::{Load, LoadSpec},
    flood::{FloodKind, FloodSpec},
    server::Nginx,
    sockets::{LIMIT, kernel_counter},
    topology::{Lab, host_addresses},
};

use crate::common::{Counted, PORT, lab, passed, protect};

fn received(lab: &Lab) -> u64 {
    // TCP's own count, over both families, includes what it then discards.
    kernel_counter(&lab.host, "TcpInSegs")
}

/// Random acknowledgements that are valid by chance, each with probability 2^-23: more of them than
/// this in one test is out of the question.
const LUCKY_MAX: u64 = 3;

/// At most one in so many random acknowledgements passes because its addresses and ports hash like
/// those of a client that was admitted within the last second. The kernel answers it with RST.
const EARLY_SHARE: u64 = 1000;

fn flooded(kind: FloodKind, target: SocketAddr) {
    const RATE: u64 = 50_000;
    const CLIENTS: u32 = 100;
    let mut lab = lab();
    let services = host_addresses(PORT);
    let _server = Nginx::start(&lab.host, &services).unwrap();
    let levee = protect(&lab);
    let before = (received(&lab), lab.switch.counters().unwrap().to_host);
    let flood = lab
        .flood(FloodSpec {
            target,
            kind,
            rate: Some(RATE),
            seed: 7,
            count_max: 4 * RATE,
            duration_max: Duration::from_secs(6),
        })
        .unwrap();
    let load = LoadSpec {
        target,
        rate: 40,
        count: CLIENTS,
        timeout: LIMIT,
    };
    let samples = Load::start(&lab.client, load).unwrap().join().unwrap();
    let sent = flood.join().unwrap();
    let half_open = lab.host.tool("ss -tnH state syn-recv").unwrap();
    let after = (received(&lab), lab.switch.counters().unwrap().to_host);
    let (segments, from_client) = (after.0 - before.0, after.1 - before.1);
    let (counted, early) = (Counted::read(&levee), passed(&levee, "early"));
    println!(
        "{kind:?} flood at {target}: {} frames in {:?}; the stack received {segments} segments, \
         the client sent {from_client}, {early} passed as early data; {counted:?}",
        sent.frames, sent.elapsed
    );
    let failed: Vec<_> = samples.iter().filter(|s| s.outcome.is_err()).collect();
    assert_eq!(
        (samples.len(), failed.len()),
        (CLIENTS as usize, 0),
        "{failed:?}"
    );
    assert!(sent.frames > RATE, "there was a flood");
    // The client's SYNs do not reach the stack either.
    assert!(segments <= from_client - u64::from(CLIENTS) + early + LUCKY_MAX);
    assert!(
        early <= sent.frames / EARLY_SHARE,
        "{early} taken for early data"
    );
    assert_eq!(half_open, "", "no half-open connection");
    for name in [
        "ListenOverflows",
        "SyncookiesSent",
        "SyncookiesRecv",
        "TCPReqQFullDrop",
    ] {
        assert_eq!(
            kernel_counter(&lab.host, &format!("TcpExt{name}")),
            0,
            "{name}"
        );
    }
    let lucky = counted.admitted - u64::from(CLIENTS);
    assert!(lucky <= LUCKY_MAX, "{lucky} of the flood were admitted");
    match kind {
        FloodKind::Syn => assert!(counted.sent >= sent.frames / 2),
        FloodKind::Ack => assert!(counted.invalid >= sent.frames / 2),
    }
}

#[test]
fn with_syns_over_ipv4() {
    flooded(FloodKind::Syn, host_addresses(PORT)[0]);
}

#[test]
fn with_acks_over_ipv4() {
    flooded(FloodKind::Ack, host_addresses(PORT)[0]);
}

#[test]
fn with_syns_over_ipv6() {
    flooded(FloodKind::Syn, host_addresses(PORT)[1]);
}

#[test]
fn with_acks_over_ipv6() {
    flooded(FloodKind::Ack, host_addresses(PORT)[1]);
}
