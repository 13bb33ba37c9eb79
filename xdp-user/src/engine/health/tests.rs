use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::engine::balancer::WEIGHT_UNIT;

fn policy() -> HealthPolicy {
    HealthPolicy {
        slow_start: Duration::from_secs(10),
        ..HealthPolicy::default()
    }
}

const MANY: Peers = Peers {
    total: 10,
    usable: 9,
    ejected: 0,
};

fn fail(health: &mut Health, now: Tick, times: usize, peers: Peers) -> Option<Transition> {
    (0..times)
        .filter_map(|_| health.connected(now, false, peers, &policy()))
        .last()
}

#[test]
fn the_first_check_decides_and_then_rise_and_fall() {
    let policy = policy();
    let mut health = Health::new(Tick(0), true);
    assert_eq!(health.state(), HealthState::Unknown);
    assert!(health.usable(false) && !health.usable(true));
    assert_eq!(health.check(Tick(1), true, &policy), Some(Transition::Up));
    for now in [2, 3] {
        assert_eq!(health.check(Tick(now), false, &policy), None);
    }
    assert!(health.usable(true));
    assert_eq!(
        health.check(Tick(4), false, &policy),
        Some(Transition::Down)
    );
    assert_eq!(health.state(), HealthState::Down { since: Tick(4) });
    assert!(!health.usable(false));
    assert_eq!(health.check(Tick(5), true, &policy), None);
    assert_eq!(health.check(Tick(6), true, &policy), Some(Transition::Up));
    let mut dead = Health::new(Tick(0), true);
    assert_eq!(dead.check(Tick(1), false, &policy), Some(Transition::Down));
}

#[test]
fn a_check_in_between_starts_the_count_again() {
    let policy = policy();
    let mut health = Health::new(Tick(0), true);
    health.check(Tick(0), true, &policy);
    for now in 0..100 {
        assert_eq!(health.check(Tick(now), now % 3 == 2, &policy), None);
    }
    assert!(health.usable(true));
}

#[test]
fn failed_connects_in_a_row_eject() {
    let mut health = Health::new(Tick(0), false);
    assert_eq!(fail(&mut health, Tick(1), 4, MANY), None);
    health.connected(Tick(1), true, MANY, &policy());
    assert_eq!(fail(&mut health, Tick(2), 4, MANY), None);
    let ejected = Transition::Ejected { for_ms: 30_000 };
    assert_eq!(fail(&mut health, Tick(3), 1, MANY), Some(ejected));
    assert!(!health.usable(false));
    assert_eq!(fail(&mut health, Tick(4), 100, MANY), None);
    assert_eq!(health.tick(Tick(30_002), &policy()), None);
    assert_eq!(
        health.tick(Tick(30_003), &policy()),
        Some(Transition::Returned)
    );
    assert!(health.usable(true));
}

#[test]
fn ejections_get_longer_until_there_was_peace() {
    let policy = policy();
    let mut health = Health::new(Tick(0), false);
    let mut now = Tick(0);
    for times in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10] {
        let for_ms = 30_000 * times;
        let ejected = Transition::Ejected { for_ms };
        assert_eq!(fail(&mut health, now, 5, MANY), Some(ejected));
        now = now.after(for_ms);
        assert_eq!(health.tick(now, &policy), Some(Transition::Returned));
    }
    now = now.after(300_000);
    assert_eq!(health.tick(now, &policy), None);
    let ejected = Transition::Ejected { for_ms: 30_000 };
    assert_eq!(fail(&mut health, now, 5, MANY), Some(ejected));
}

#[test]
fn never_ejected_without_checks_or_when_off_or_down() {
    let off = HealthPolicy {
        eject_failures: 0,
        ..policy()
    };
    let mut health = Health::new(Tick(0), false);
    assert!((0..1_000).all(|_| health.connected(Tick(0), false, MANY, &off).is_none()));
    let mut down = Health::new(Tick(0), true);
    down.check(Tick(0), false, &policy());
    assert_eq!(fail(&mut down, Tick(1), 1_000, MANY), None);
}

#[test]
fn the_last_usable_backend_is_never_ejected() {
    // The others are down, not ejected: half of the pool would still be left.
    let alone = Peers {
        total: 4,
        usable: 0,
        ejected: 0,
    };
    let mut health = Health::new(Tick(0), true);
    health.check(Tick(0), true, &policy());
    assert_eq!(fail(&mut health, Tick(1), 1_000, alone), None);
    assert!(health.usable(true));
    let not_alone = Peers { usable: 1, ..alone };
    assert!(fail(&mut health, Tick(2), 1, not_alone).is_some());
}

#[test]
fn down_shows_before_ejected() {
    let policy = policy();
    let mut health = Health::new(Tick(0), true);
    health.check(Tick(0), true, &policy);
    fail(&mut health, Tick(1), 5, MANY);
    for now in [2, 3, 4] {
        health.check(Tick(now), false, &policy);
    }
    assert_eq!(health.state(), HealthState::Down { since: Tick(4) });
    health.tick(Tick(60_000), &policy);
    assert!(!health.usable(false));
}

#[test]
fn slow_start_grows_to_the_full_weight() {
    let policy = policy();
    let weight = |health: &Health, now| health.weight_now(Tick(now), 1, &policy);
    let mut health = Health::new(Tick(0), true);
    health.check(Tick(0), true, &policy);
    assert_eq!(weight(&health, 0), WEIGHT_UNIT, "all start together");
    for now in [1, 2, 3] {
        health.check(Tick(now), false, &policy);
    }
    for now in [4, 1_000] {
        health.check(Tick(now), true, &policy);
    }
    assert_eq!(weight(&health, 1_000), 1);
    assert_eq!(weight(&health, 6_000), WEIGHT_UNIT / 2);
    assert_eq!(weight(&health, 11_000), WEIGHT_UNIT);
    assert_eq!(weight(&health, u64::MAX), WEIGHT_UNIT);
    assert_eq!(health.weight_now(Tick(1_000), 0, &policy), 0);
    assert_eq!(health.weight_now(Tick(u64::MAX), 256, &policy), 32_768);
    let off = HealthPolicy {
        slow_start: Duration::ZERO,
        ..policy
    };
    assert_eq!(health.weight_now(Tick(1_000), 1, &off), WEIGHT_UNIT);
}

#[test]
fn who_joins_a_pool_starts_slowly() {
    let policy = policy();
    let unchecked = Health::joining(Tick(50), false);
    assert_eq!(unchecked.weight_now(Tick(50), 1, &policy), 1);
    let mut checked = Health::joining(Tick(50), true);
    checked.check(Tick(5_000), true, &policy);
    assert_eq!(
        checked.weight_now(Tick(10_000), 1, &policy),
        WEIGHT_UNIT / 2
    );
}

#[test]
fn checks_are_spread() {
    let policy = policy();
    let at = |random| Health::next_check(Tick(100), random, &policy);
    assert_eq!(at(0), Tick(1_900));
    assert_eq!(at(u32::MAX), Tick(2_300));
    assert_eq!(at(u32::MAX / 2), Tick(2_099));
}

proptest! {
    /// A pool under any mixture of failing connects never loses its last usable backend to
    /// ejection, nor more than half of all.
    #[test]
    fn half_of_a_pool_stays(
        total in 1_usize..9,
        events in prop::collection::vec((0_usize..9, 0_u64..20_000, any::<bool>()), 0..400),
    ) {
        let policy = policy();
        let mut pool = vec![Health::new(Tick(0), false); total];
        let mut now = Tick(0);
        for (which, later, ok) in events {
            now = now.after(later);
            for health in &mut pool {
                health.tick(now, &policy);
            }
            let this = which % total;
            let others = || (0..total).filter(|&n| n != this).map(|n| &pool[n]);
            let peers = Peers {
                total,
                usable: others().filter(|h| h.usable(true)).count(),
                ejected: others().filter(|h| matches!(h.state(), HealthState::Ejected { .. })).count(),
            };
            pool[this].connected(now, ok, peers, &policy);
            let usable = pool.iter().filter(|h| h.usable(true)).count();
            prop_assert!(usable >= 1 && usable * 2 >= total, "{usable} of {total}");
        }
    }

    /// The state is that of the last `rise` or `fall` equal results.
    #[test]
    fn checks_follow_a_naive_model(results in prop::collection::vec(any::<bool>(), 1..100)) {
        let policy = policy();
        let mut health = Health::new(Tick(0), true);
        let mut up = results[0];
        for (n, &ok) in results.iter().enumerate() {
            health.check(Tick(n as u64), ok, &policy);
            let row = results[..=n].iter().rev().take_while(|&&r| r == ok).count();
            let enough = if ok { policy.rise } else { policy.fall };
            if row >= usize::from(enough) {
                up = ok;
            }
            prop_assert_eq!(health.usable(true), up);
        }
    }
}
