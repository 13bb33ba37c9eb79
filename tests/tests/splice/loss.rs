//! Lost packets: any single one of a handshake, and one in a hundred of a transfer.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use levee_tests::{
    abi::tcp_flag::{ACK, FIN, RST, SYN},
    capture::{Capture, out_of_window},
    pattern::both_ways,
    sockets::{assert_echo, echo, eventually, reset},
    splice_lab::INTERFACE,
    switch::{Counters, Direction, LossRule, Payload},
};

use crate::common::{Stage, addresses, assert_banner, banner};

/// Which switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    Outer,
    Inner,
}

/// The next segments with these flags, of SYN, ACK, FIN and RST, and no payload.
fn next(flags: u8, drop: u32) -> LossRule {
    LossRule {
        flags_mask: SYN | ACK | FIN | RST,
        flags,
        payload: Payload::Empty,
        skip: 0,
        drop,
    }
}

fn lost(counters: Counters, direction: Direction) -> u64 {
    match direction {
        Direction::ToHost => counters.lost,
        Direction::ToClient => counters.lost_to_client,
    }
}

/// Loses one segment of a handshake, of a client that speaks first and of a server that does.
/// Recovery may take one retransmission of whoever has to, by a busy machine.
fn recovers(wire: Wire, direction: Direction, flags: u8) {
    for server_first in [false, true] {
        recovers_where(server_first, wire, direction, flags);
    }
}

/// The same of one of the two.
fn recovers_where(server_first: bool, wire: Wire, direction: Direction, flags: u8) {
    const RETRANSMISSION: Duration = Duration::from_millis(3_500);
    let mut stage = Stage::plain();
    let _servers = stage.serve(if server_first { banner } else { echo });
    for (address, losses) in addresses().into_iter().zip(1..) {
        let switch = match wire {
            Wire::Outer => stage.lab.outer.switch(),
            Wire::Inner => stage.lab.inner.switch(),
        };
        switch.set_loss(direction, Some(next(flags, 1))).unwrap();
        let start = Instant::now();
        let client = stage.connect(address);
        if server_first {
            assert_banner(&client);
        }
        assert_echo(&client, "in spite of the loss");
        let elapsed = start.elapsed();
        println!("{address}, server first {server_first}: {elapsed:?}");
        assert!(elapsed < RETRANSMISSION, "{elapsed:?}");
        let switch = match wire {
            Wire::Outer => stage.lab.outer.switch(),
            Wire::Inner => stage.lab.inner.switch(),
        };
        assert_eq!(lost(switch.counters().unwrap(), direction), losses);
    }
}

#[test]
fn the_clients_syn_is_lost() {
    recovers(Wire::Outer, Direction::ToHost, SYN);
}

#[test]
fn the_syn_ack_to_the_client_is_lost() {
    recovers(Wire::Outer, Direction::ToClient, SYN | ACK);
}

/// The SYN-ACK is sent again, and the client answers it.
#[test]
fn the_clients_final_ack_is_lost() {
    recovers(Wire::Outer, Direction::ToHost, ACK);
}

/// It is the first ACK without data that goes to the client.
#[test]
fn the_window_update_is_lost() {
    recovers(Wire::Outer, Direction::ToClient, ACK);
}

#[test]
fn levees_syn_to_the_server_is_lost() {
    recovers(Wire::Inner, Direction::ToClient, SYN);
}

#[test]
fn the_servers_syn_ack_is_lost() {
    recovers(Wire::Inner, Direction::ToHost, SYN | ACK);
}

#[test]
fn levees_ack_to_the_server_is_lost() {
    recovers_where(false, Wire::Inner, Direction::ToClient, ACK);
}

#[test]
fn levees_ack_to_a_server_that_speaks_first_is_lost() {
    recovers_where(true, Wire::Inner, Direction::ToClient, ACK);
}

/// The RST is behind data that levee has seen nobody acknowledge: it cannot tell that this is the
/// right one, and asks.
#[test]
fn a_reset_behind_data_whose_ack_is_lost_ends_the_connection() {
    let mut stage = Stage::plain();
    for family in [0, 1] {
        for client_resets in [true, false] {
            let (client, server) = stage.pair(family);
            let (mut resets, other, from_other) = if client_resets {
                (client, server, stage.lab.inner.switch())
            } else {
                (server, client, stage.lab.outer.switch())
            };
            let all = next(ACK, u32::MAX);
            from_other.set_loss(Direction::ToHost, Some(all)).unwrap();
            resets.write_all(b"the last word").unwrap();
            reset(resets);
            let is_reset = || other.take_error().unwrap().is_some();
            eventually("the RST arrives", is_reset);
            from_other.set_loss(Direction::ToHost, None).unwrap();
        }
    }
    stage.assert_nothing_left();
    assert!(stage.metric("levee_flow_probes_total", &[]) >= 4);
}

/// Blocks each way: 100 MiB.
const BLOCKS: u64 = 1600;

/// Loses packets with this probability, on both sides of levee, both ways.
fn lose(stage: &mut Stage, chance: f64) {
    for switch in [stage.lab.outer.switch(), stage.lab.inner.switch()] {
        for direction in [Direction::ToHost, Direction::ToClient] {
            switch.set_chance(direction, chance).unwrap();
        }
    }
}

/// Loses one packet in a hundred of connections that are open: what the loss of one packet of a
/// handshake does, other tests show.
#[test]
fn every_byte_arrives_with_one_per_cent_lost() {
    let mut stage = Stage::plain();
    let pairs = [stage.pair(0), stage.pair(1)];
    lose(&mut stage, 0.01);
    for (client, server) in &pairs {
        both_ways(client, server, BLOCKS);
    }
    let counters = stage.lab.outer.switch().counters().unwrap();
    println!("{counters:?}");
    assert!(counters.lost_in_flood > 0 && counters.lost_to_client > 0);
}

/// What both ends are sent has good checksums and fits into the windows that they have offered,
/// without loss and with.
#[test]
fn no_bad_checksum_and_nothing_out_of_window() {
    let mut stage = Stage::plain();
    stage.lab.receive_whole_frames().unwrap();
    for (chance, name) in [(0.0, "whole"), (0.01, "lossy")] {
        for (family, address) in addresses().into_iter().enumerate() {
            let ends = [
                (&stage.lab.client, "client"),
                (&stage.lab.backend, "backend"),
            ];
            let captures = ends.map(|(netns, end)| {
                let name = format!("{name}-{family}-{end}");
                Capture::start(netns, INTERFACE, stage.lab.scratch(), &name).unwrap()
            });
            let (client, server) = stage.pair(family);
            lose(&mut stage, chance);
            both_ways(&client, &server, 40);
            lose(&mut stage, 0.0);
            for capture in captures {
                let recording = capture.stop().unwrap();
                let segments = recording.segments().unwrap();
                assert!(segments.len() > 100, "{} segments", segments.len());
                let good = recording.count("tcp.checksum.status == 1").unwrap();
                assert_eq!(good, segments.len(), "{name}, {address}");
                let bad = "ip.checksum.status == 0 || icmp.checksum.status == 0";
                assert_eq!(recording.count(bad).unwrap(), 0, "{name}, {address}");
                assert_eq!(out_of_window(&segments), [], "{name}, {address}");
            }
        }
    }
}
