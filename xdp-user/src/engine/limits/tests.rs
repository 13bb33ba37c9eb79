use std::{
    collections::HashMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use proptest::prelude::*;

use super::*;

const HASH_KEY: [u64; 2] = [3, 4];

fn v4(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn connections(per_client: u32, per_prefix: u32) -> Limits {
    Limits {
        per_client,
        per_prefix,
        ..Limits::default()
    }
}

/// A different address for each number, and a different prefix for most.
fn scattered(n: u64) -> IpAddr {
    // Multiplying by an odd number is one to one.
    let bits = (n as u32).wrapping_mul(0x9e37_79b1);
    if n.is_multiple_of(2) {
        IpAddr::V4(Ipv4Addr::from_bits(bits))
    } else {
        IpAddr::V6(Ipv6Addr::from_bits(u128::from(bits) << 64 | u128::from(n)))
    }
}

#[test]
fn addresses_and_prefixes_have_their_own_bounds() {
    let mut table = LimitTable::new(64, HASH_KEY);
    let limits = connections(2, 3);
    let mut enter = |client| table.enter(Tick(0), 1, v4(client), &limits).map(drop);
    assert_eq!(enter("192.0.2.1"), Ok(()));
    assert_eq!(enter("::ffff:192.0.2.1"), Ok(()));
    assert_eq!(enter("192.0.2.1"), Err(Refusal::ClientConnections));
    assert_eq!(enter("192.0.2.2"), Ok(()));
    assert_eq!(enter("192.0.2.3"), Err(Refusal::PrefixConnections));
    assert_eq!(enter("192.0.3.3"), Ok(()));
    assert_eq!(enter("2001:db8::1"), Ok(()));
    assert_eq!(enter("2001:db8::1"), Ok(()));
    assert_eq!(enter("2001:db8::1"), Err(Refusal::ClientConnections));
    assert_eq!(enter("2001:db8::2"), Ok(()));
    assert_eq!(enter("2001:db8::3"), Err(Refusal::PrefixConnections));
    assert_eq!(enter("2001:db8:0:1::3"), Ok(()));
}

#[test]
fn services_are_counted_apart() {
    let mut table = LimitTable::new(64, HASH_KEY);
    let limits = connections(1, 1);
    for service in 0..4 {
        assert!(
            table
                .enter(Tick(0), service, v4("192.0.2.1"), &limits)
                .is_ok()
        );
    }
    assert!(table.enter(Tick(0), 3, v4("192.0.2.1"), &limits).is_err());
}

#[test]
fn what_is_refused_is_not_counted() {
    let mut table = LimitTable::new(64, HASH_KEY);
    let limits = Limits {
        rate_per_minute: 60,
        rate_burst: 1,
        ..connections(1, 2)
    };
    let client = v4("192.0.2.1");
    let permit = table.enter(Tick(0), 1, client, &limits).unwrap();
    for ms in 1..5_000 {
        assert_eq!(
            table.enter(Tick(ms), 1, client, &limits),
            Err(Refusal::ClientConnections)
        );
    }
    table.leave(permit);
    let permit = table.enter(Tick(5_000), 1, client, &limits).unwrap();
    table.leave(permit);
    assert_eq!(
        table.enter(Tick(5_001), 1, client, &limits),
        Err(Refusal::ClientRate)
    );
    table.sweep(Tick(6_000), usize::MAX);
    assert_eq!(table.entries(), 0);
}

#[test]
fn an_ipv6_site_has_one_rate() {
    let mut table = LimitTable::new(64, HASH_KEY);
    let limits = Limits {
        rate_per_minute: 60,
        rate_burst: 2,
        ..Limits::default()
    };
    let mut enter = |client| table.enter(Tick(0), 1, v4(client), &limits).map(drop);
    assert_eq!(enter("2001:db8::1"), Ok(()));
    assert_eq!(enter("2001:db8::2"), Ok(()));
    assert_eq!(enter("2001:db8::3"), Err(Refusal::ClientRate));
    assert_eq!(enter("192.0.2.1"), Ok(()));
    assert_eq!(enter("192.0.2.2"), Ok(()));
    assert_eq!(enter("192.0.2.1"), Ok(()));
    assert_eq!(enter("192.0.2.1"), Err(Refusal::ClientRate));
    assert_eq!(table.entries(), 3);
}

#[test]
fn limits_that_are_off_keep_nothing() {
    let mut table = LimitTable::new(64, HASH_KEY);
    for n in 0..1_000 {
        let permit = table
            .enter(Tick(0), 1, scattered(n), &Limits::default())
            .unwrap();
        assert_eq!(table.entries(), 0);
        table.leave(permit);
    }
}

/// A limit that a reload switches on or off must not take from counts what was not added.
#[test]
fn who_was_not_counted_is_not_counted_out() {
    let mut table = LimitTable::new(64, HASH_KEY);
    let client = v4("192.0.2.1");
    let before = table.enter(Tick(0), 1, client, &Limits::default()).unwrap();
    let limits = connections(1, 0);
    let counted = table.enter(Tick(0), 1, client, &limits).unwrap();
    table.leave(before);
    assert_eq!(
        table.enter(Tick(0), 1, client, &limits),
        Err(Refusal::ClientConnections)
    );
    table.leave(counted);
    assert_eq!(table.entries(), 0);
}

#[test]
fn a_million_addresses_fit_because_they_are_forgotten() {
    let mut table = LimitTable::new(4_096, HASH_KEY);
    let limits = Limits {
        rate_per_minute: 1,
        rate_burst: 1,
        ..connections(5, 10)
    };
    let memory = table.slots.capacity();
    for n in 0..1_000_000 {
        let permit = table
            .enter(Tick(n / 100), 1, scattered(n), &limits)
            .unwrap();
        assert!(table.entries() <= table.capacity());
        table.leave(permit);
    }
    assert_eq!(table.slots.capacity(), memory);
    assert_eq!(table.uncounted(), 0);
    // Each has an entry for a minute, and there is room for a few thousand only.
    assert!(table.forgotten() > 900_000, "{}", table.forgotten());
    table.sweep(Tick(1_000_000), usize::MAX);
    assert_eq!(table.entries(), 0);
}

#[test]
fn a_table_full_of_connections_admits_and_says_so() {
    const BOUND: usize = 4_096;
    let mut table = LimitTable::new(BOUND, HASH_KEY);
    let limits = connections(5, 0);
    let mut permits = Vec::new();
    for n in 0..1_000_000 {
        permits.push(table.enter(Tick(0), 1, scattered(n), &limits).unwrap());
    }
    assert_eq!(table.entries(), BOUND);
    assert_eq!(table.uncounted(), 1_000_000 - BOUND as u64);
    for permit in permits {
        table.leave(permit);
    }
    assert_eq!(table.entries(), 0);
}

/// Two buckets to choose from: the first connection goes uncounted late.
#[test]
fn the_table_fills_well_before_it_is_full() {
    const BOUND: usize = 16_384;
    let mut table = LimitTable::new(BOUND, HASH_KEY);
    let first = (0..).find(|&n| {
        let permit = table.enter(Tick(0), 1, scattered(n), &connections(1, 0));
        permit.is_ok() && table.uncounted() > 0
    });
    assert!(first.unwrap() as usize > BOUND * 3 / 4, "{first:?}");
}

#[test]
fn a_part_holds_all_of_a_client_and_parts_are_even() {
    let mut counts = [0_u32; 16];
    for n in 0..16_000 {
        counts[part_of(scattered(n), 16, HASH_KEY)] += 1;
    }
    assert!(
        counts.iter().all(|count| (800..1_200).contains(count)),
        "{counts:?}"
    );
    let part = |client| part_of(v4(client), 16, HASH_KEY);
    assert_eq!(part("192.0.2.1"), part("192.0.2.255"));
    assert_eq!(part("192.0.2.1"), part("::ffff:192.0.2.7"));
    assert_eq!(part("2001:db8::1"), part("2001:db8::ffff:1"));
}

/// The same rules without bounds, in maps.
#[derive(Default)]
struct Model {
    active: HashMap<(u16, IpAddr, u8), u32>,
    rates: HashMap<(u16, IpAddr), Gcra>,
}

impl Model {
    fn keys(service: u16, client: IpAddr) -> [(u16, IpAddr, u8); 2] {
        let IpAddr::V4(v4) = client else {
            unreachable!("the model is for IPv4")
        };
        let network = Ipv4Addr::from_bits(v4.to_bits() & 0xffff_ff00);
        [(service, client, 32), (service, network.into(), 24)]
    }

    fn enter(
        &mut self,
        now: Tick,
        service: u16,
        client: IpAddr,
        limits: &Limits,
    ) -> Result<(), Refusal> {
        let [host, network] = Self::keys(service, client);
        let count = |key| self.active.get(&key).copied().unwrap_or(0);
        if limits.per_prefix > 0 && count(network) >= limits.per_prefix {
            return Err(Refusal::PrefixConnections);
        }
        if limits.per_client > 0 && count(host) >= limits.per_client {
            return Err(Refusal::ClientConnections);
        }
        if let Some(rate) = Rate::new(limits.rate_per_minute, limits.rate_burst) {
            let state = self.rates.entry((service, client)).or_default();
            *state = state.next(now, rate).ok_or(Refusal::ClientRate)?;
        }
        for key in [host, network] {
            *self.active.entry(key).or_default() += 1;
        }
        Ok(())
    }

    fn leave(&mut self, service: u16, client: IpAddr) {
        for key in Self::keys(service, client) {
            *self.active.get_mut(&key).unwrap() -= 1;
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Enter { service: u16, network: u8, host: u8 },
    Leave(usize),
    Wait(u64),
    Sweep(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_u16..3, 0_u8..4, 0_u8..4)
            .prop_map(|(service, network, host)| Step::Enter { service, network, host }),
        3 => any::<usize>().prop_map(Step::Leave),
        1 => (0_u64..3_000).prop_map(Step::Wait),
        1 => (0_usize..100).prop_map(Step::Sweep),
    ];
    prop::collection::vec(step, 0..300)
}

proptest! {
    /// With room for all, the table does what maps would.
    #[test]
    fn as_a_map_without_bounds(
        steps in steps(),
        per_client in 0_u32..4,
        per_prefix in 0_u32..8,
        rate_per_minute in prop_oneof![Just(0_u32), 20_u32..200],
        rate_burst in 1_u32..4,
    ) {
        let limits = Limits { service: 0, per_client, per_prefix, rate_per_minute, rate_burst };
        let mut table = LimitTable::new(1_024, HASH_KEY);
        let mut model = Model::default();
        let mut now = Tick(0);
        let mut open = Vec::new();
        for step in steps {
            match step {
                Step::Enter { service, network, host } => {
                    let client = IpAddr::V4(Ipv4Addr::new(10, 0, network, host));
                    let entered = table.enter(now, service, client, &limits);
                    let expected = model.enter(now, service, client, &limits);
                    prop_assert_eq!(entered.as_ref().err(), expected.as_ref().err());
                    open.extend(entered.ok().map(|permit| (permit, service, client)));
                }
                Step::Leave(which) if !open.is_empty() => {
                    let (permit, service, client) = open.swap_remove(which % open.len());
                    table.leave(permit);
                    model.leave(service, client);
                }
                Step::Leave(_) => {}
                Step::Wait(ms) => now = now.after(ms),
                Step::Sweep(max) => table.sweep(now, max),
            }
        }
        for (permit, ..) in open {
            table.leave(permit);
        }
        table.sweep(now.after(1_000_000), usize::MAX);
        prop_assert_eq!(table.entries(), 0);
    }

    /// In a table that is far too small, no count exceeds its bound, and all end at 0.
    #[test]
    fn counts_hold_in_a_full_table(steps in steps()) {
        let limits = Limits { rate_per_minute: 60, rate_burst: 2, ..connections(2, 3) };
        let mut table = LimitTable::new(BUCKET, HASH_KEY);
        let mut now = Tick(0);
        let mut open = Vec::new();
        for step in steps {
            match step {
                Step::Enter { service, network, host } => {
                    let client = IpAddr::V4(Ipv4Addr::new(10, 0, network, host));
                    open.extend(table.enter(now, service, client, &limits));
                }
                Step::Leave(which) if !open.is_empty() => {
                    table.leave(open.swap_remove(which % open.len()));
                }
                Step::Leave(_) => {}
                Step::Wait(ms) => now = now.after(ms),
                Step::Sweep(max) => table.sweep(now, max),
            }
            let counted = open.iter().flat_map(|p| [p.client, p.prefix]).flatten().count();
            let active: u32 = table.slots.iter().map(|entry| entry.active).sum();
            prop_assert_eq!(active as usize, counted);
            prop_assert!(table.slots.iter().all(|entry| entry.active <= 3));
            prop_assert_eq!(table.entries(), table.slots.iter().filter(|e| e.kind.is_some()).count());
        }
        for permit in open {
            table.leave(permit);
        }
        prop_assert!(table.slots.iter().all(|entry| entry.active == 0));
    }
}
