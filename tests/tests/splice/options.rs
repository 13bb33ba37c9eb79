//! TCP options that client and server have, in every combination: what both have is used, and every
//! byte arrives.

use std::net::SocketAddr;

use levee_tests::{
    netns::Netns,
    pattern::both_ways,
    splice_lab::{SpliceLab, SpliceOptions},
};

use crate::common::{Stage, addresses, backends, services};

/// Timestamps, SACK and window scaling: whether an end has them.
type Has = [bool; 3];

const SETTINGS: [&str; 3] = ["tcp_timestamps", "tcp_sack", "tcp_window_scaling"];
/// The words of `ss` for them.
const WORDS: [&str; 3] = ["ts", "sack", "wscale:"];
const BLOCKS: u64 = 4;

fn combinations() -> impl Iterator<Item = Has> {
    (0..8).map(|bits| [0, 1, 2].map(|bit| bits >> bit & 1 == 1))
}

fn set(netns: &Netns, has: Has) {
    for (name, on) in SETTINGS.iter().zip(has) {
        let value = if on { "1" } else { "0" };
        netns.sysctl(&format!("net.ipv4.{name}"), value).unwrap();
    }
}

/// What the socket of a connection with `peer` uses.
fn uses(netns: &Netns, peer: SocketAddr) -> Has {
    let line = netns
        .tool(&format!("ss -tinoHO state established dst {peer}"))
        .unwrap();
    assert_eq!(line.lines().count(), 1, "one connection: {line:?}");
    let words: Vec<&str> = line.split_whitespace().collect();
    WORDS.map(|word| {
        let exact = !word.ends_with(':');
        words.iter().any(|found| {
            if exact {
                *found == word
            } else {
                found.starts_with(word)
            }
        })
    })
}

/// All clients of a server that has these options. Its levee is new: what the server has was
/// learned by checking it at the start.
fn with_server(server_has: Has) {
    let lab = SpliceLab::new(SpliceOptions::default()).unwrap();
    set(&lab.backend, server_has);
    let stage = Stage::in_lab(lab, &backends(), &services(""));
    for client_has in combinations() {
        set(&stage.lab.client, client_has);
        for (family, address) in addresses().into_iter().enumerate() {
            let (client, server) = stage.pair(family);
            let what = format!("{address}: client {client_has:?}, server {server_has:?}");
            let both = [0, 1, 2].map(|option| client_has[option] && server_has[option]);
            let source = client.local_addr().unwrap();
            assert_eq!(uses(&stage.lab.client, address), both, "client; {what}");
            // Without SACK, Linux's server does not mention what its peer has not.
            assert_eq!(uses(&stage.lab.backend, source), both, "server; {what}");
            both_ways(&client, &server, BLOCKS);
        }
    }
}

#[test]
fn a_server_with_everything() {
    with_server([true, true, true]);
}

#[test]
fn a_server_without_timestamps() {
    with_server([false, true, true]);
}

#[test]
fn a_server_without_sack() {
    with_server([true, false, true]);
}

#[test]
fn a_server_without_window_scaling() {
    with_server([true, true, false]);
}

#[test]
fn a_server_with_timestamps_alone() {
    with_server([true, false, false]);
}

#[test]
fn a_server_with_sack_alone() {
    with_server([false, true, false]);
}

#[test]
fn a_server_with_window_scaling_alone() {
    with_server([false, false, true]);
}

#[test]
fn a_server_with_nothing() {
    with_server([false, false, false]);
}
