use std::{collections::HashMap, net::IpAddr, sync::atomic::Ordering::Relaxed};

use proptest::prelude::*;
use xdp_common::splice::{
    flow::{Flow, Hop, MARK_ACKED, STATE_FREE, STATE_OPEN, STATE_PENDING, Seen},
    index::{BUCKET_SLOTS, SideKey},
};

use super::{
    Adoption, Counts, REST_MS, Table, cells,
    memory::{Boxed, Memory as _},
};
use crate::engine::{
    Tick,
    handshake::effects::{FlowId, Flows as _, OpenError, Translation},
};

const SEED: u64 = 0x1234_5678_9abc_def0;

const TRANSLATION: Translation = Translation {
    seq_delta: 0xdead_beef,
    ts_delta: 77,
    offered_scale: 7,
    target_scale: 9,
    client_shift: 1,
    timestamps: true,
};

fn addr(text: &str) -> xdp_common::tuple::Addr {
    text.parse::<IpAddr>().unwrap().into()
}

/// The flow of one of a few clients and one of a few ports towards the target.
fn flow(client: u16, nat: u16) -> Flow {
    Flow {
        client: addr("192.0.2.1"),
        client_port: client,
        nat: addr("2001:db8::1"),
        nat_port: nat,
        service: 3,
        target: 5,
        hop: Hop {
            ifindex: 4,
            ..Hop::default()
        },
        seen: [
            Seen {
                acked: 11,
                marks: MARK_ACKED,
                ..Seen::default()
            },
            Seen::default(),
        ],
        ..Flow::default()
    }
}

fn client_key(client: u16) -> SideKey {
    SideKey::client(addr("192.0.2.1"), client, 3)
}

fn target_key(nat: u16) -> SideKey {
    SideKey::target(addr("2001:db8::1"), nat, 5)
}

fn table(flows: u32, buckets: u32) -> Table<Boxed> {
    Table::adopt(Boxed::new(flows + 1, buckets), SEED).0
}

#[test]
fn a_flow_is_pending_then_open_then_gone() {
    let mut table = table(4, 4);
    assert_eq!((table.capacity(), table.end()), (4, 1));
    table.set_time(Tick(0), 100);
    let id = table.open(&flow(1, 2)).unwrap();
    let pending = Flow {
        state: STATE_PENDING,
        ..flow(1, 2)
    };
    assert_eq!(table.get(id), pending);
    table.set_time(Tick(900), 101);
    table.establish(id, &TRANSLATION);
    let mut open = Flow {
        state: STATE_OPEN,
        seq_delta: 0xdead_beef,
        ts_delta: 77,
        offered_scale: 7,
        target_scale: 9,
        client_shift: 1,
        timestamps: 1,
        opened_s: 101,
        ..flow(1, 2)
    };
    open.seen[0].at_s = 101;
    open.seen[1].at_s = 101;
    assert_eq!(table.get(id), open);
    assert_eq!(table.find(client_key(1)), Some(id));
    assert_eq!(table.find(target_key(2)), Some(id));
    assert_eq!(
        (table.usage().of_service(3), table.usage().of_target(5)),
        (1, 1)
    );
    let mut seen = Vec::new();
    table.scan(0..table.end(), |id, flow| seen.push((id, *flow)));
    assert_eq!(seen, [(id, open)]);
    table.close(id);
    assert_eq!(table.find(client_key(1)), None);
    assert_eq!(table.find(target_key(2)), None);
    assert_eq!(
        (table.usage().of_service(3), table.usage().of_target(5)),
        (0, 0)
    );
    assert_eq!(table.counts(), Counts::default());
    assert!(
        table
            .memory
            .slots()
            .iter()
            .all(|slot| slot.load(Relaxed) == 0)
    );
}

#[test]
fn an_open_flow_can_be_taken_back_and_keeps_its_place() {
    let mut table = table(4, 4);
    let id = table.open(&flow(1, 2)).unwrap();
    table.establish(id, &TRANSLATION);
    let open = table.get(id);
    table.withdraw(id);
    let state = STATE_PENDING;
    assert_eq!(table.get(id), Flow { state, ..open });
    assert_eq!(table.find(client_key(1)), Some(id));
    assert_eq!((table.counts().open, table.counts().pending), (0, 1));
    table.close(id);
    assert_eq!(table.counts(), Counts::default());
}

#[test]
fn a_side_is_taken_once() {
    let mut table = table(4, 4);
    let id = table.open(&flow(1, 2)).unwrap();
    assert_eq!(table.open(&flow(1, 3)), Err(OpenError::ClientInUse(id)));
    assert_eq!(table.open(&flow(4, 2)), Err(OpenError::TargetInUse(id)));
    assert_eq!(table.counts().pending, 1);
}

#[test]
fn a_full_table_refuses_until_a_number_has_rested() {
    let mut table = table(2, 4);
    let first = table.open(&flow(1, 1)).unwrap();
    table.open(&flow(2, 2)).unwrap();
    assert_eq!(table.open(&flow(3, 3)), Err(OpenError::Full));
    table.close(first);
    table.set_time(Tick(REST_MS - 1), 0);
    assert_eq!(table.open(&flow(3, 3)), Err(OpenError::Full));
    table.set_time(Tick(REST_MS), 1);
    assert_eq!(table.open(&flow(3, 3)), Ok(first));
    assert_eq!(table.counts().full, 2);
}

#[test]
fn when_buckets_are_full_nothing_has_changed() {
    let mut table = table(100, 2);
    for number in 0..8 {
        table.open(&flow(number, number)).unwrap();
    }
    assert_eq!(table.open(&flow(8, 8)), Err(OpenError::NoRoom));
    let counts = Counts {
        pending: 8,
        no_room: 1,
        ..Counts::default()
    };
    assert_eq!(table.counts(), counts);
    assert_eq!(table.find(client_key(8)), None);
}

#[test]
fn another_process_takes_over_what_is_open() {
    let memory = Boxed::new(65, 64);
    let (mut table, found) = Table::adopt(&memory, SEED);
    assert_eq!(found, Adoption::default());
    let ids: Vec<_> = (0..40).map(|n| table.open(&flow(n, n)).unwrap()).collect();
    for id in &ids[..30] {
        table.establish(*id, &TRANSLATION);
    }
    table.close(ids[3]);
    let open: Vec<_> = (0..30).filter(|&n| n != 3).collect();

    let (mut heir, found) = Table::adopt(&memory, SEED);
    let expected = Adoption {
        kept: 29,
        pending: 10,
        entries: 20,
        lost: 0,
    };
    assert_eq!(found, expected);
    assert_eq!((heir.counts().open, heir.usage().of_service(3)), (29, 29));
    for &n in &open {
        let id = Some(ids[usize::from(n)]);
        assert_eq!(
            (heir.find(client_key(n)), heir.find(target_key(n))),
            (id, id)
        );
    }
    assert_eq!(heir.end(), 31, "behind the last open flow");
    for n in 100..135 {
        heir.open(&flow(n, n)).unwrap();
    }
    assert_eq!(heir.open(&flow(200, 200)), Err(OpenError::Full));
}

#[test]
fn a_controller_may_die_while_it_closes_or_moves() {
    let memory = Boxed::new(65, 2);
    let (mut table, _) = Table::adopt(&memory, SEED);
    let ids: Vec<_> = (0..8).map(|n| table.open(&flow(n, n)).unwrap()).collect();
    for id in &ids {
        table.establish(*id, &TRANSLATION);
    }
    // Closed, but the index still leads to it.
    cells::write_state(&memory.flows()[ids[0].0 as usize], STATE_FREE);
    // Moved home, but not yet gone from the neighbour: so one slot too many.
    let (heir, found) = Table::adopt(&memory, SEED);
    assert_eq!((found.kept, found.entries), (7, 2));
    let away = memory.slots()[..BUCKET_SLOTS].iter();
    let copied = away.clone().find(|slot| slot.load(Relaxed) != 0).unwrap();
    let free = memory.slots()[BUCKET_SLOTS..].iter();
    for slot in free.filter(|slot| slot.load(Relaxed) == 0) {
        slot.store(copied.load(Relaxed), Relaxed);
    }
    drop(heir);
    let (heir, found) = Table::adopt(&memory, SEED);
    assert_eq!((found.kept, found.lost), (7, 0));
    for n in 1..8 {
        let id = Some(ids[usize::from(n)]);
        assert_eq!(
            (heir.find(client_key(n)), heir.find(target_key(n))),
            (id, id)
        );
    }
    let entries = memory.slots().iter().filter(|s| s.load(Relaxed) != 0);
    assert_eq!(entries.count(), 14);
}

#[test]
fn with_another_seed_nothing_can_be_found_and_all_is_dropped() {
    let memory = Boxed::new(65, 64);
    let (mut table, _) = Table::adopt(&memory, SEED);
    for n in 0..20 {
        let id = table.open(&flow(n, n)).unwrap();
        table.establish(id, &TRANSLATION);
    }
    let (heir, found) = Table::adopt(&memory, SEED + 1);
    assert_eq!((found.kept, found.lost), (0, 20));
    assert_eq!(heir.counts(), Counts::default());
    assert!(memory.slots().iter().all(|slot| slot.load(Relaxed) == 0));
}

#[derive(Clone, Debug)]
enum Op {
    Open(u16, u16),
    Establish(usize),
    Close(usize),
    Pass(u64),
    Adopt,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..24_u16, 0..24_u16).prop_map(|(client, nat)| Op::Open(client, nat)),
        3 => any::<usize>().prop_map(Op::Establish),
        5 => any::<usize>().prop_map(Op::Close),
        2 => (1..2 * REST_MS).prop_map(Op::Pass),
        1 => Just(Op::Adopt),
    ]
}

/// What a table should be, naively.
#[derive(Default)]
struct Model {
    now: u64,
    /// By number: both sides, and whether it is open.
    flows: HashMap<u32, (u16, u16, bool)>,
    closed_at: HashMap<u32, u64>,
    /// When numbers were tried in vain; which ones is not told.
    refused_at: Vec<u64>,
    counts: Counts,
}

impl Model {
    fn check_open(&mut self, table: &Table<&Boxed>, flow: &Flow, found: Result<FlowId, OpenError>) {
        let by = |is: &dyn Fn(&(u16, u16, bool)) -> bool| {
            let found = self.flows.iter().find(|(_, sides)| is(sides));
            found.map(|(&number, _)| FlowId(number))
        };
        let client = by(&|&(client, ..)| client == flow.client_port);
        let target = by(&|&(_, nat, _)| nat == flow.nat_port);
        match found {
            Ok(FlowId(number)) => {
                assert_eq!((client, target), (None, None));
                assert!(!self.flows.contains_key(&number));
                let closed = self.closed_at.get(&number);
                assert!(closed.is_none_or(|closed| self.now - closed >= REST_MS));
                let sides = (flow.client_port, flow.nat_port, false);
                self.flows.insert(number, sides);
                self.counts.pending += 1;
            }
            Err(OpenError::ClientInUse(id)) => assert_eq!(client, Some(id)),
            Err(OpenError::TargetInUse(id)) => {
                assert_eq!((client, target), (None, Some(id)));
            }
            Err(OpenError::Full) => {
                self.counts.full += 1;
                let resting = self.closed_at.values().chain(&self.refused_at);
                let resting = resting
                    .filter(|closed| self.now - *closed < REST_MS)
                    .count();
                assert!(self.flows.len() + resting >= table.capacity() as usize);
            }
            Err(OpenError::NoRoom) => {
                self.counts.no_room += 1;
                self.refused_at.push(self.now);
                let taken = table.memory.slots().iter().filter(|s| s.load(Relaxed) != 0);
                assert!(taken.count() >= 2 * BUCKET_SLOTS - 1);
            }
        }
    }

    fn check(&self, table: &Table<&Boxed>) {
        assert_eq!(table.counts(), self.counts);
        for client in 0..24 {
            let mut model = self.flows.iter();
            let model = model.find(|(_, sides)| sides.0 == client);
            let model = model.map(|(&number, _)| FlowId(number));
            assert_eq!(table.find(client_key(client)), model);
        }
        for nat in 0..24 {
            let mut model = self.flows.iter();
            let model = model.find(|(_, sides)| sides.1 == nat);
            let model = model.map(|(&number, _)| FlowId(number));
            assert_eq!(table.find(target_key(nat)), model);
        }
        let entries = table.memory.slots().iter();
        let entries = entries.filter(|slot| slot.load(Relaxed) != 0).count();
        assert_eq!(entries, 2 * self.flows.len());
    }
}

proptest! {
    /// With two buckets and four, so that they overflow all the time.
    #[test]
    fn a_table_is_what_a_naive_one_would_be(
        ops in proptest::collection::vec(op(), 1..150),
        buckets in prop_oneof![Just(2_u32), Just(4)],
        flows in 4..20_u32,
        seed: u64,
    ) {
        let memory = Boxed::new(flows + 1, buckets);
        let mut table = Table::adopt(&memory, seed).0;
        let mut model = Model::default();
        for op in ops {
            let mut numbers: Vec<_> = model.flows.keys().copied().collect();
            numbers.sort_unstable();
            match op {
                Op::Open(client, nat) => {
                    let flow = flow(client, nat);
                    let found = table.open(&flow);
                    model.check_open(&table, &flow, found);
                }
                Op::Establish(choice) => {
                    numbers.retain(|number| !model.flows[number].2);
                    if let Some(&number) = numbers.get(choice % numbers.len().max(1)) {
                        table.establish(FlowId(number), &TRANSLATION);
                        model.flows.get_mut(&number).unwrap().2 = true;
                        model.counts.pending -= 1;
                        model.counts.open += 1;
                    }
                }
                Op::Close(choice) => {
                    if let Some(&number) = numbers.get(choice % numbers.len().max(1)) {
                        table.close(FlowId(number));
                        let (.., open) = model.flows.remove(&number).unwrap();
                        model.closed_at.insert(number, model.now);
                        *(if open { &mut model.counts.open } else { &mut model.counts.pending }) -= 1;
                    }
                }
                Op::Pass(ms) => {
                    model.now += ms;
                    table.set_time(Tick(model.now), 0);
                }
                Op::Adopt => {
                    let before = model.flows.len();
                    model.flows.retain(|_, sides| sides.2);
                    let (heir, found) = Table::adopt(&memory, seed);
                    table = heir;
                    table.set_time(Tick(model.now), 0);
                    prop_assert_eq!(found.kept as usize, model.flows.len());
                    prop_assert_eq!(found.pending as usize, before - model.flows.len());
                    prop_assert_eq!(found.lost, 0);
                    model.closed_at.clear();
                    model.refused_at.clear();
                    model.counts = Counts { open: found.kept, ..Counts::default() };
                }
            }
            model.check(&table);
        }
    }
}
