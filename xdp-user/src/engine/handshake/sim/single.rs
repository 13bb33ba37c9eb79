//! One connection, of which each packet is lost in turn.

use xdp_common::tuple::Addr;

use super::{
    Habit, Script, Sim, Stack,
    endpoint::{End, Place},
    net::Event,
    worlds::PERFECT,
};
use crate::engine::handshake::{SYN_WAIT_MS, outcome::Outcome};

const CLIENT: Place = (Addr::v4([192, 0, 2, 1]), 2_000);

/// How long the first answer takes to come a second time, milliseconds, and what else is to be done
/// meanwhile.
const RTO_MS: u64 = 1_000;
const SLACK_MS: u64 = 20;

/// Who speaks first, and who closes first: whether it is the client.
#[derive(Clone, Copy, Debug)]
struct Manner {
    speaks: bool,
    closes: bool,
}

impl Manner {
    const ALL: [Self; 4] = [
        Self::new(true, true),
        Self::new(true, false),
        Self::new(false, true),
        Self::new(false, false),
    ];

    const fn new(speaks: bool, closes: bool) -> Self {
        Self { speaks, closes }
    }
}

/// Has a connection of which one packet is lost. Returns it when it is over, and whether that packet
/// was one of its at all.
fn lose(packet: u64, manner: Manner) -> (Sim, bool) {
    let mut sim = Sim::with_table(1, PERFECT, &[Habit::Good], 64);
    sim.stack.timestamps = true;
    sim.stack.window_scale = Some(7);
    sim.net.unlucky = Some(packet);
    let script = |is_client: bool| Script {
        sends: 500,
        expects: 500,
        speaks_first: is_client == manner.speaks,
        closes_first: is_client == manner.closes,
        resets: false,
        deadline_us: 100_000_000,
    };
    let stack = Stack {
        window_scale: Some(8),
        sack: true,
        timestamps: true,
        probes_with_data: packet.is_multiple_of(2),
        eager_fin: false,
        clock: 0,
        time_wait_us: 1_000,
    };
    sim.to_start = 1;
    sim.connect_as(CLIENT, [script(true), script(false)], stack);
    sim.net.at(1_000_000, Event::Reap);
    sim.go_on();
    let was_there = sim.net.sent > packet;
    (sim, was_there)
}

#[test]
fn any_packet_may_be_lost_and_costs_a_retransmission() {
    for manner in Manner::ALL {
        let mut packet = 0;
        loop {
            let (sim, was_there) = lose(packet, manner);
            if !was_there {
                assert!(packet > 15, "a connection of {packet} packets");
                break;
            }
            let client = &sim.connections[0].client.end;
            let what = format!("packet {packet}, {manner:?}: {client:?}");
            assert_eq!(client.end(), Some(End::Finished), "{what}");
            assert!(client.closed_us < (RTO_MS + SLACK_MS) * 1_000, "{what}");
            assert_eq!(sim.outcome(Outcome::Established), 1, "{what}");
            sim.check();
            packet += 1;
        }
    }
}

#[test]
fn without_loss_a_connection_takes_a_few_round_trips() {
    for manner in Manner::ALL {
        let (sim, _) = lose(u64::MAX, manner);
        let client = &sim.connections[0].client.end;
        assert_eq!(client.end(), Some(End::Finished));
        assert!(client.closed_us < SLACK_MS * 1_000, "{client:?}");
    }
}

/// The SYN to the target, and its answer, are levee's to send again.
#[test]
fn what_is_lost_between_levee_and_the_target_costs_less() {
    for packet in [3, 4] {
        let (sim, _) = lose(packet, Manner::new(false, true));
        let client = &sim.connections[0].client.end;
        let most_ms = u64::from(SYN_WAIT_MS) + 2 * SLACK_MS;
        assert!(client.closed_us < most_ms * 1_000, "{packet}: {client:?}");
    }
}
