//! A flood of SYNs in front of the proxy: clients get through, and the proxy sees none of it.

use std::{net::SocketAddr, time::Duration};

use levee_tests::{
    client::{Load, LoadSpec},
    flood::{FloodKind, FloodSpec},
    levee::{Levee, ProxySetup},
    server::Nginx,
    sockets::LIMIT,
    topology::{INTERFACE, Lab, LabOptions, host_addresses},
};

use crate::common::{PORT, service};

fn flooded(address: SocketAddr, backend: SocketAddr) {
    const RATE: u64 = 50_000;
    const CLIENTS: u32 = 100;
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let _server = Nginx::start(&lab.host, &[backend]).unwrap();
    let configuration = service(address, "", &[backend]);
    let setup = ProxySetup {
        interfaces: &[INTERFACE],
        configuration: &configuration,
        ..ProxySetup::default()
    };
    let levee = Levee::configured(&lab.host, &setup).unwrap();
    let spec = FloodSpec {
        target: address,
        kind: FloodKind::Syn,
        rate: Some(RATE),
        seed: 11,
        count_max: 4 * RATE,
        duration_max: Duration::from_secs(6),
    };
    let flood = lab.flood(spec).unwrap();
    let load = LoadSpec {
        target: address,
        rate: 40,
        count: CLIENTS,
        timeout: LIMIT,
    };
    let samples = Load::start(&lab.client, load).unwrap().join().unwrap();
    let sent = flood.join().unwrap();
    let failed: Vec<_> = samples.iter().filter(|s| s.outcome.is_err()).collect();
    let metrics = levee.metrics().unwrap();
    let accepted = metrics.sum("levee_connections_accepted_total", &[]) as u64;
    let answered = metrics.sum("levee_syncookies_sent_total", &[]) as u64;
    println!(
        "{address}: {} SYNs in {:?}, {answered} answered; {accepted} connections accepted",
        sent.frames, sent.elapsed
    );
    assert_eq!(
        (samples.len(), failed.len()),
        (CLIENTS as usize, 0),
        "{failed:?}"
    );
    assert!(sent.frames > 100 * u64::from(CLIENTS), "there was a flood");
    assert!(answered >= sent.frames / 2);
    assert_eq!(accepted, u64::from(CLIENTS));
}

#[test]
fn over_ipv4() {
    flooded(host_addresses(PORT)[0], "127.0.0.1:7001".parse().unwrap());
}

#[test]
fn over_ipv6() {
    flooded(host_addresses(PORT)[1], "[::1]:7001".parse().unwrap());
}
