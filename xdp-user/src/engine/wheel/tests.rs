use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// The same without a wheel.
#[derive(Default)]
struct Model(BTreeMap<u32, u64>);

impl Model {
    fn set(&mut self, key: u32, deadline: Tick) {
        self.0.insert(key, deadline.0.div_ceil(GRANULARITY_MS));
    }

    fn advance(&mut self, now: Tick) -> BTreeSet<u32> {
        let due = |at: u64| at <= now.0 / GRANULARITY_MS;
        let expired = self.0.iter().filter(|(_, at)| due(**at));
        let expired = expired.map(|(key, _)| *key).collect();
        self.0.retain(|_, at| !due(*at));
        expired
    }
}

/// Advances until nothing is left to do; what expired, each key once.
fn advance(wheel: &mut Wheel, now: Tick) -> BTreeSet<u32> {
    let mut expired = Vec::new();
    while wheel.advance(now, &mut expired) {}
    let keys: BTreeSet<u32> = expired.iter().copied().collect();
    assert_eq!(keys.len(), expired.len(), "{expired:?}");
    keys
}

#[derive(Clone, Debug)]
enum Step {
    Set { key: u32, in_ms: u64 },
    SetPast { key: u32, ago_ms: u64 },
    Clear { key: u32 },
    Advance { by_ms: u64 },
    AdvanceToNext,
}

/// Spans of all magnitudes, and those around the borders of levels.
fn span_ms() -> impl Strategy<Value = u64> {
    let around = |log2: u32| (0u64..64).prop_map(move |n| (1u64 << log2) - 32 + n);
    prop_oneof![
        (0u32..40, any::<u64>()).prop_map(|(log2, n)| n % (1 << log2)),
        around(12),
        around(20),
        around(28),
        around(36),
        around(38),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0u32..40;
    prop_oneof![
        4 => (key.clone(), span_ms()).prop_map(|(key, in_ms)| Step::Set { key, in_ms }),
        1 => (key.clone(), span_ms()).prop_map(|(key, ago_ms)| Step::SetPast { key, ago_ms }),
        1 => key.prop_map(|key| Step::Clear { key }),
        2 => span_ms().prop_map(|by_ms| Step::Advance { by_ms }),
        3 => Just(Step::AdvanceToNext),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn it_expires_what_a_sorted_map_expires(
        start in span_ms(),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut now = Tick(start);
        let mut wheel = Wheel::new(now);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Set { key, in_ms } => {
                    wheel.set(key, now.after(in_ms));
                    model.set(key, now.after(in_ms));
                }
                Step::SetPast { key, ago_ms } => {
                    let past = Tick(now.0.saturating_sub(ago_ms));
                    wheel.set(key, past);
                    model.set(key, past);
                }
                Step::Clear { key } => {
                    wheel.clear(key);
                    model.0.remove(&key);
                }
                Step::Advance { by_ms } => now = now.after(by_ms),
                Step::AdvanceToNext => now = now.max(wheel.next().unwrap_or(now)),
            }
            prop_assert_eq!(advance(&mut wheel, now), model.advance(now));
            let earliest = model.0.values().min().map(|at| at * GRANULARITY_MS);
            prop_assert_eq!(wheel.next().is_some(), earliest.is_some());
            if let (Some(next), Some(earliest)) = (wheel.next(), earliest) {
                prop_assert!(next.0 <= earliest, "{next:?} {earliest}");
                // Else whoever sleeps until then does not sleep.
                prop_assert!(next > now, "{next:?} {now:?}");
            }
        }
    }

    #[test]
    fn whoever_sleeps_until_next_is_there_in_a_few_steps(
        start in span_ms(),
        in_ms in span_ms(),
    ) {
        let mut wheel = Wheel::new(Tick(start));
        wheel.set(7, Tick(start).after(in_ms));
        let mut expired = Vec::new();
        let mut steps = 0;
        while let Some(next) = wheel.next() {
            wheel.advance(next, &mut expired);
            steps += 1;
        }
        prop_assert_eq!(expired, vec![7]);
        // One for each level, and one for each time around the last.
        let steps_max = 1 + LEVELS as u64 + (in_ms >> 35);
        prop_assert!(steps <= steps_max, "{steps}");
    }
}

#[test]
fn a_call_moves_at_most_so_many_and_says_that_there_is_more() {
    let mut wheel = Wheel::new(Tick(0));
    let keys = 10 * MOVES_MAX as u32;
    // All in one slot of the second level.
    for key in 0..keys {
        wheel.set(key, Tick(5_000 + u64::from(key % 1_000)));
    }
    let now = Tick(10_000);
    let mut expired = Vec::new();
    let mut calls = 0;
    loop {
        let before = expired.len();
        let more = wheel.advance(now, &mut expired);
        assert!(expired.len() - before <= MOVES_MAX);
        calls += 1;
        if !more {
            break;
        }
        // What others do between the calls changes nothing.
        wheel.set(keys, now.after(1));
    }
    assert!(calls >= 20, "{calls}");
    expired.sort_unstable();
    assert!(expired.iter().copied().eq(0..keys), "{}", expired.len());
    assert_eq!(
        advance(&mut wheel, now.after(1 + GRANULARITY_MS)),
        [keys].into()
    );
    assert_eq!(wheel.next(), None);
}

#[test]
fn what_was_cleared_never_fires() {
    let mut wheel = Wheel::new(Tick(0));
    wheel.clear(3);
    wheel.set(3, Tick(100));
    wheel.set(4, Tick(100));
    wheel.clear(3);
    wheel.clear(3);
    assert_eq!(advance(&mut wheel, Tick(1_000)), [4].into());
    // Due but not taken yet.
    wheel.set(5, Tick(0));
    wheel.clear(5);
    assert_eq!(wheel.next(), None);
    assert!(advance(&mut wheel, Tick(2_000)).is_empty());
}

#[test]
fn time_never_goes_back() {
    let mut wheel = Wheel::new(Tick(1_000));
    wheel.set(1, Tick(1_500));
    assert!(advance(&mut wheel, Tick(0)).is_empty());
    assert_eq!(advance(&mut wheel, Tick(1_600)), [1].into());
}

/// Connections whose deadlines move all the time and are set again only when the wheel fires: each
/// ends within a granule of its real deadline.
#[test]
fn a_million_lazy_deadlines_end_on_time() {
    const CONNECTIONS: usize = 10_000;
    const IDLE_MS: u64 = 60_000;
    let mut seed = 0x2545_F491_4F6C_DD1D_u64;
    let mut random = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut wheel = Wheel::new(Tick(0));
    let mut last_byte = vec![Tick(0); CONNECTIONS];
    let mut ended = vec![None; CONNECTIONS];
    for key in 0..CONNECTIONS {
        wheel.set(key as u32, Tick(IDLE_MS));
    }
    let (mut set, mut alive) = (0, CONNECTIONS);
    let mut expired = Vec::new();
    let mut now = Tick(0);
    while alive > 0 {
        now = wheel.next().expect("what is alive has a deadline").max(now);
        let busy = set < 1_000_000;
        for _ in 0..if busy { 100 } else { 0 } {
            let key = random(CONNECTIONS as u64) as usize;
            if ended[key].is_none() {
                last_byte[key] = now;
            }
        }
        while wheel.advance(now, &mut expired) {}
        for key in expired.drain(..) {
            let deadline = last_byte[key as usize].after(IDLE_MS);
            if deadline <= now {
                assert!(now.since(deadline) < GRANULARITY_MS, "{now:?} {deadline:?}");
                assert_eq!(ended[key as usize].replace(now), None);
                if busy {
                    // Another takes its place.
                    ended[key as usize] = None;
                    last_byte[key as usize] = now;
                    wheel.set(key, now.after(IDLE_MS));
                } else {
                    alive -= 1;
                }
            } else {
                wheel.set(key, deadline);
            }
            set += 1;
        }
    }
    assert!(set >= 1_000_000);
    assert_eq!(wheel.next(), None);
}
