//! A hop that is narrower than both ends believe: they learn of it through levee.

use levee_tests::{
    netns::Netns,
    pattern::both_ways,
    splice_lab::{CLIENT, NARROW_MTU, SERVICE, Side, SpliceOptions},
};

use crate::common::{Stage, services};

fn assert_learned(netns: &Netns, peer: std::net::IpAddr) {
    let route = netns.tool(&format!("ip route get {peer}")).unwrap();
    assert!(
        route.contains(&format!("mtu {NARROW_MTU}")),
        "{peer}: {route}"
    );
}

fn transfers(side: Side, families: &[usize]) -> Stage {
    let options = SpliceOptions {
        narrow: Some(side),
        ..SpliceOptions::default()
    };
    let stage = Stage::with(options, &services(""));
    for &family in families {
        let (client, server) = stage.pair(family);
        both_ways(&client, &server, 20);
    }
    stage
}

/// The client is told about packets that it has sent to the service, by a router that has seen them
/// on their way to the backend.
#[test]
fn the_client_learns_of_a_narrow_hop_behind_levee() {
    let stage = transfers(Side::Inside, &[0]);
    assert_learned(&stage.lab.client, SERVICE[0]);
}

#[test]
fn the_client_learns_of_a_narrow_hop_behind_levee_v6() {
    let stage = transfers(Side::Inside, &[1]);
    assert_learned(&stage.lab.client, SERVICE[1]);
}

/// The backend is told about packets that it has sent to the client, by a router that has seen them
/// come from the service.
#[test]
fn the_backend_learns_of_a_narrow_hop_before_levee() {
    let stage = transfers(Side::Outside, &[0, 1]);
    for ip in CLIENT {
        assert_learned(&stage.lab.backend, ip);
    }
}

/// A backend behind a router: the next hop is the router, also after its neighbour entry has gone.
#[test]
fn the_way_to_a_backend_survives_its_neighbour_entry() {
    let stage = transfers(Side::Inside, &[0, 1]);
    stage.lab.levee.tool("ip neigh flush all").unwrap();
    for family in [0, 1] {
        let (client, server) = stage.pair(family);
        both_ways(&client, &server, 4);
    }
}
