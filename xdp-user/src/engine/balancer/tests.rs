use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

const HASH_KEY: [u64; 2] = [1, 2];

fn candidate(weight: u16) -> Candidate {
    Candidate {
        weight: in_force(weight),
        active: 0,
        max: 0,
        usable: true,
    }
}

fn balancer(balance: Balance, weights: &[u16]) -> (Balancer, Vec<Candidate>) {
    let keys: Vec<_> = (0..weights.len() as u64).map(BackendKey).collect();
    let balancer = Balancer::new(balance, &keys, weights, HASH_KEY);
    (balancer, weights.iter().copied().map(candidate).collect())
}

fn client(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(number))
}

fn everybody() -> [Balance; 3] {
    [
        Balance::RoundRobin,
        Balance::LeastConnections,
        Balance::ClientHash,
    ]
}

#[test]
fn round_robin_is_smooth() {
    let (mut balancer, candidates) = balancer(Balance::RoundRobin, &[5, 1, 1]);
    let picks: Vec<_> = (0..7)
        .filter_map(|n| balancer.pick(&candidates, client(n), 0))
        .collect();
    assert_eq!(picks, [0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn skipped_turns_are_those_that_would_have_come() {
    let (mut plain, candidates) = balancer(Balance::RoundRobin, &[3, 2, 1]);
    let (mut skipped, _) = balancer(Balance::RoundRobin, &[3, 2, 1]);
    skipped.skip(&candidates, 2);
    let picks: Vec<_> = (0..8)
        .map(|n| plain.pick(&candidates, client(n), 0))
        .collect();
    for expected in &picks[2..] {
        assert_eq!(skipped.pick(&candidates, client(0), 0), *expected);
    }
}

#[test]
fn least_connections_go_by_weight_and_take_turns_when_even() {
    let (mut balancer, mut candidates) = balancer(Balance::LeastConnections, &[1, 2, 4]);
    for n in 0..70 {
        let position = balancer.pick(&candidates, client(n), 0).unwrap();
        candidates[position].active += 1;
    }
    assert_eq!(
        candidates.iter().map(|c| c.active).collect::<Vec<_>>(),
        [10, 20, 40]
    );
    candidates[1].active = 3;
    assert_eq!(balancer.pick(&candidates, client(0), 0), Some(1));
}

/// A backend that has just come back has no connections at all, and must not get all new ones.
#[test]
fn least_connections_respect_a_slow_start() {
    let (mut balancer, mut candidates) = balancer(Balance::LeastConnections, &[1, 1]);
    candidates[0].active = 100;
    candidates[1].weight = in_force(1) / 8;
    for n in 0..50 {
        let position = balancer.pick(&candidates, client(n), 0).unwrap();
        candidates[position].active += 1;
    }
    // 1 / 8 of the other's: 150 connections divide as 133 and 17.
    assert!((16..=18).contains(&candidates[1].active), "{candidates:?}");
}

#[test]
fn a_client_stays_with_its_backend() {
    let (mut balancer, candidates) = balancer(Balance::ClientHash, &[1, 1, 1]);
    for number in 0..1_000 {
        let first = balancer.pick(&candidates, client(number), 0);
        assert_eq!(balancer.pick(&candidates, client(number), 0), first);
        let mapped = IpAddr::V6(Ipv4Addr::from_bits(number).to_ipv6_mapped());
        assert_eq!(balancer.pick(&candidates, mapped, 0), first);
    }
    let of_one_network = |host: u64| IpAddr::V6(Ipv6Addr::from_bits((7 << 64) | u128::from(host)));
    let first = balancer.pick(&candidates, of_one_network(1), 0);
    assert!((0..1_000).all(|n| balancer.pick(&candidates, of_one_network(n), 0) == first));
}

#[test]
fn clients_spread_by_weight() {
    const CLIENTS: u32 = 100_000;
    let weights = [1, 2, 3, 4];
    let (mut balancer, candidates) = balancer(Balance::ClientHash, &weights);
    let mut counts = [0_u32; 4];
    for number in 0..CLIENTS {
        counts[balancer.pick(&candidates, client(number), 0).unwrap()] += 1;
    }
    for (count, weight) in counts.into_iter().zip(weights) {
        let fair = f64::from(CLIENTS) * f64::from(weight) / 10.0;
        assert!((f64::from(count) - fair).abs() < fair * 0.05, "{counts:?}");
    }
}

/// A backend that is down takes only its own clients along, however many are down already.
#[test]
fn only_clients_of_what_goes_down_move() {
    const CLIENTS: u32 = 5_000;
    let (mut balancer, mut candidates) = balancer(Balance::ClientHash, &[1; 10]);
    let mut before: Vec<_> = (0..CLIENTS)
        .map(|n| balancer.pick(&candidates, client(n), 0).unwrap())
        .collect();
    for down in 0..9 {
        candidates[down].usable = false;
        for (number, old) in (0..CLIENTS).zip(&mut before) {
            let new = balancer.pick(&candidates, client(number), 0).unwrap();
            assert!(candidates[new].usable);
            assert!(
                *old == down || *old == new,
                "{down} went, client {number} moved"
            );
            *old = new;
        }
    }
}

/// Whom a backend's clients go to while it is down follows the weights of the others.
#[test]
fn clients_of_a_dead_pool_spread_by_weight() {
    const CLIENTS: u32 = 40_000;
    let mut weights = [50; 64];
    weights[0] = 1;
    weights[1] = 3;
    let (mut balancer, mut candidates) = balancer(Balance::ClientHash, &weights);
    for candidate in &mut candidates[2..] {
        candidate.usable = false;
    }
    let first = (0..CLIENTS).filter(|&n| balancer.pick(&candidates, client(n), 0) == Some(0));
    let share = first.count() as f64 / f64::from(CLIENTS);
    assert!((share - 0.25).abs() < 0.02, "{share}");
}

#[test]
fn a_slow_start_brings_clients_back_bit_by_bit() {
    const CLIENTS: u32 = 20_000;
    let (mut balancer, mut candidates) = balancer(Balance::ClientHash, &[1, 1]);
    let mut share = |weight: u16| {
        candidates[1].weight = weight;
        let is_second = |&n: &u32| balancer.pick(&candidates, client(n), 0) == Some(1);
        (0..CLIENTS).filter(is_second).collect::<Vec<_>>()
    };
    let (little, half, full) = (share(1), share(WEIGHT_UNIT / 2), share(WEIGHT_UNIT));
    let part = |clients: &[u32]| clients.len() as f64 / f64::from(CLIENTS);
    assert!(part(&little) < 0.03, "{}", part(&little));
    assert!((0.2..0.45).contains(&part(&half)), "{}", part(&half));
    assert!((0.48..0.52).contains(&part(&full)), "{}", part(&full));
}

#[test]
fn keys_depend_on_name_and_address() {
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    let key = |name, at| BackendKey::new(name, address(at));
    let keys = [
        key("a", "10.0.0.1:80"),
        key("a", "10.0.0.1:81"),
        key("a", "10.0.0.2:80"),
        key("b", "10.0.0.1:80"),
        key("a\0", "10.0.0.1:80"),
        key("a_long_name_of_a_backend", "10.0.0.1:80"),
        key("a", "[2001:db8::1]:80"),
    ];
    for (n, key) in keys.iter().enumerate() {
        assert!(!keys[..n].contains(key), "{n}");
    }
    assert_eq!(keys[0], key("a", "10.0.0.1:80"));
}

fn any_candidates() -> impl Strategy<Value = (Vec<Candidate>, BackendSet)> {
    let one =
        (0_u16..4, 0_u32..6, 0_u32..6, any::<bool>()).prop_map(|(weight, active, max, usable)| {
            Candidate {
                weight: weight * WEIGHT_UNIT,
                active,
                max,
                usable,
            }
        });
    (
        prop::collection::vec(one, 1..=BACKENDS_MAX),
        any::<BackendSet>(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the algorithm, what is picked may be picked, and if something may, something is.
    #[test]
    fn only_what_is_free_is_picked((candidates, tried) in any_candidates(), number: u32) {
        let may = |position: usize, c: &Candidate| {
            c.usable && c.weight > 0 && (c.max == 0 || c.active < c.max) && tried >> position & 1 == 0
        };
        let weights: Vec<_> = candidates.iter().map(|c| c.weight / WEIGHT_UNIT).collect();
        let any = candidates.iter().enumerate().any(|(position, c)| may(position, c));
        for balance in everybody() {
            let (mut balancer, _) = balancer(balance, &weights);
            for n in 0..3 {
                let picked = balancer.pick(&candidates, client(number ^ n), tried);
                prop_assert_eq!(picked.is_some(), any);
                prop_assert!(picked.is_none_or(|position| may(position, &candidates[position])));
            }
        }
    }

    /// After as many turns as the weights sum up to, everyone had its own.
    #[test]
    fn turns_are_exact(weights in prop::collection::vec(0_u16..20, 1..12)) {
        let (mut balancer, candidates) = balancer(Balance::RoundRobin, &weights);
        let total: u16 = weights.iter().sum();
        let mut counts = vec![0; weights.len()];
        for n in 0..total {
            counts[balancer.pick(&candidates, client(n.into()), 0).unwrap()] += 1;
        }
        prop_assert_eq!(counts, weights);
    }

    /// Connections are never further apart than one place by weight.
    #[test]
    fn the_least_loaded_is_picked(
        loads in prop::collection::vec((1_u16..=256, 0_u32..1_000), 1..20),
    ) {
        let weights: Vec<_> = loads.iter().map(|&(weight, _)| weight).collect();
        let (mut balancer, mut candidates) = balancer(Balance::LeastConnections, &weights);
        for (candidate, &(_, active)) in candidates.iter_mut().zip(&loads) {
            candidate.active = active;
        }
        let load = |c: &Candidate| f64::from(c.active) / f64::from(c.weight);
        let least = candidates.iter().map(load).fold(f64::INFINITY, f64::min);
        let picked = balancer.pick(&candidates, client(1), 0).unwrap();
        prop_assert!(load(&candidates[picked]) <= least * (1.0 + 1e-9));
    }
}
