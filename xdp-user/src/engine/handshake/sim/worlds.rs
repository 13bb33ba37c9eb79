//! The worlds that are tried.

use std::collections::HashMap;

use xdp_common::{
    abi::{OFFER_SACK, OFFER_TIMESTAMPS, OFFER_WINDOW_SCALE},
    splice::index::buckets,
    tuple::Addr,
};

use super::{
    Conditions, Habit, Handshakes, KEYS, Levee, Net, Random, Sim, Stack, Tick, endpoint::End,
};
use crate::{
    engine::{
        handshake::{
            answered::Answered,
            effects::Service,
            outcome::{Notice, Outcome},
        },
        reason::ConnectError,
    },
    flows::{Table, memory::Boxed},
};

/// Connections in one world.
const CONNECTIONS: u32 = 4_200;

impl Sim {
    pub(super) fn new(seed: u64, conditions: Conditions, habits: &[Habit]) -> Self {
        Self::with_table(seed, conditions, habits, 8_000)
    }

    /// One whose table holds so many flows.
    pub(super) fn with_table(
        seed: u64,
        conditions: Conditions,
        habits: &[Habit],
        flow_count: u32,
    ) -> Self {
        let memory: &Boxed = Box::leak(Box::new(Boxed::new(flow_count + 1, buckets(flow_count))));
        let (flows, _) = Table::adopt(memory, seed);
        let mut random = Random(seed);
        let stack = Stack {
            window_scale: random.of(&[None, Some(0), Some(7), Some(9)]),
            sack: !random.one_in(4),
            timestamps: !random.one_in(4),
            probes_with_data: random.one_in(2),
            eager_fin: random.one_in(2),
            clock: 0,
            time_wait_us: 60_000_000,
        };
        // What a health check learns of the targets.
        let offer = [
            (stack.timestamps, OFFER_TIMESTAMPS),
            (stack.sack, OFFER_SACK),
            (stack.window_scale.is_some(), OFFER_WINDOW_SCALE),
        ];
        let offer = offer.iter().filter(|(has, _)| *has).map(|(_, bit)| *bit);
        let service = Service {
            id: 3,
            window_scale: random.of(&[0, 7, 11]),
            offer: offer.sum(),
            attempts_max: habits.len() as u8,
            connect_timeout_ms: 2_500,
            half_open_max: 4_096,
        };
        let nat_full = random.one_in(2);
        let pool = if nat_full { 2 } else { 0 };
        Self {
            now_us: 0,
            net: Net::default(),
            conditions,
            engine: Handshakes::new(Tick(0), 4_096, KEYS),
            engine_alarm_us: None,
            levee: Levee {
                flows,
                memory,
                service,
                targets: habits.len() as u16,
                pool: (0..pool).map(|host| Addr::v4([10, 9, 9, host])).collect(),
                pool_ports: 20_000,
                unresolved_one_in: 0,
                random: Random(seed ^ 0x5555),
                sent: Vec::new(),
                ended: [0; Outcome::COUNT],
                notices: [0; Notice::COUNT],
                failed: [0; ConnectError::COUNT],
                clock_s: 1,
                answered: Answered::default(),
            },
            habits: habits.to_vec(),
            stack,
            connections: Vec::new(),
            to_start: CONNECTIONS,
            clients: HashMap::new(),
            servers: HashMap::new(),
            client_ports: 500,
            pace_us: 5_000,
            reaped: 0,
            server_first_one_in: 3,
            impatient_one_in: 30,
            random,
        }
    }

    pub(super) fn outcome(&self, outcome: Outcome) -> u64 {
        self.levee.ended[outcome.index()]
    }

    /// How often anybody had to ask again.
    fn asked_again(&self) -> u32 {
        let ends = self.connections.iter().flat_map(|connection| {
            let servers = connection.servers.iter();
            servers.chain([&connection.client])
        });
        ends.map(|node| node.end.asked_again).sum()
    }

    /// Clients that got all they wanted.
    fn finished(&self) -> usize {
        let ends = self.connections.iter().map(|c| c.client.end.end());
        ends.filter(|end| *end == Some(End::Finished)).count()
    }
}

pub(super) const PERFECT: Conditions = Conditions {
    lost: 0,
    doubled: 0,
    held_up: 0,
    delay_us: (200, 200),
};

const BAD: Conditions = Conditions {
    lost: 200,
    doubled: 200,
    held_up: 100,
    delay_us: (50, 3_000),
};

fn run(sim: &mut Sim) {
    sim.run();
    sim.check();
}

#[test]
fn in_a_perfect_network_all_goes_well() {
    for seed in 0..4 {
        let mut sim = Sim::new(seed, PERFECT, &[Habit::Good, Habit::Good]);
        sim.impatient_one_in = u64::MAX;
        run(&mut sim);
        assert_eq!(sim.outcome(Outcome::Established), u64::from(CONNECTIONS));
        // Nothing is sent twice, but where a target remembers a connection from the same port.
        let remembered = sim.noticed(Notice::WrongAck);
        assert_eq!(sim.noticed(Notice::SynRetransmitted), remembered);
        assert_eq!(sim.engine.strays(), 0);
        assert_eq!(sim.asked_again(), 0, "nobody waits for anything");
        assert!(sim.noticed(Notice::FlowReused) > 0, "ports are used again");
    }
}

#[test]
fn in_a_bad_network() {
    for seed in 10..14 {
        let mut sim = Sim::new(seed, BAD, &[Habit::Good, Habit::Slow]);
        run(&mut sim);
        assert!(
            sim.finished() > CONNECTIONS as usize / 2,
            "{}",
            sim.finished()
        );
    }
}

#[test]
fn with_targets_that_fail() {
    for seed in 20..24 {
        let habits = [Habit::Gone, Habit::Refusing, Habit::Slow, Habit::Good];
        let conditions = if seed % 2 == 0 { PERFECT } else { BAD };
        let mut sim = Sim::new(seed, conditions, &habits);
        sim.levee.unresolved_one_in = 3;
        run(&mut sim);
        assert!(sim.noticed(Notice::FailedOver) > 0);
        assert!(sim.noticed(Notice::HopUnknown) > 0);
        assert!(
            sim.finished() > CONNECTIONS as usize / 2,
            "{}",
            sim.finished()
        );
    }
}

#[test]
fn with_targets_that_all_fail() {
    for seed in 30..34 {
        let habits = [Habit::Gone, Habit::Refusing];
        let conditions = if seed % 2 == 0 { PERFECT } else { BAD };
        let mut sim = Sim::new(seed, conditions, &habits);
        run(&mut sim);
        assert_eq!(sim.outcome(Outcome::Established), 0);
        assert!(sim.outcome(Outcome::Timeout) > 0 && sim.outcome(Outcome::Refused) > 0);
        if seed % 2 == 0 {
            // Nobody is left to find out by himself.
            let ends = sim.connections.iter().map(|c| c.client.end.end());
            let told = [Some(End::Reset), Some(End::GaveUp)];
            assert!(ends.clone().all(|end| told.contains(&end)));
        }
    }
}

#[test]
fn where_the_half_open_queue_is_full() {
    for seed in 40..44 {
        let conditions = if seed % 2 == 0 { PERFECT } else { BAD };
        let mut sim = Sim::new(seed, conditions, &[Habit::Slow, Habit::Good, Habit::Gone]);
        sim.levee.service.half_open_max = 50;
        run(&mut sim);
        assert!(sim.outcome(Outcome::HalfOpenFull) > 0);
        assert!(sim.outcome(Outcome::Established) > 0);
    }
}

#[test]
fn where_the_table_and_the_pool_are_full() {
    for seed in 50..54 {
        let conditions = if seed % 2 == 0 { PERFECT } else { BAD };
        let mut sim = Sim::with_table(seed, conditions, &[Habit::Slow, Habit::Good], 250);
        sim.levee.pool = vec![Addr::v4([10, 9, 9, 9])];
        sim.levee.pool_ports = 150;
        run(&mut sim);
        assert!(sim.outcome(Outcome::TableFull) > 0);
        assert!(sim.outcome(Outcome::Established) > 0);
    }
}
