use proptest::prelude::*;

use super::*;

#[test]
fn at_the_bound_the_oldest_silent_one_goes() {
    let mut queue = HalfOpenQueue::new(3);
    for key in 1..=3 {
        assert_eq!(queue.enter(Tick(key.into()), key, false), Place::Free);
    }
    queue.spoke(1);
    assert_eq!(queue.enter(Tick(4), 4, false), Place::Evicted { key: 2 });
    assert_eq!(queue.enter(Tick(5), 5, true), Place::Evicted { key: 3 });
    assert_eq!(queue.depth(), 3);
    assert_eq!(queue.oldest_age_ms(Tick(10)), 9);
    assert_eq!(queue.leave(Tick(10), 3), None);
    assert_eq!(queue.leave(Tick(10), 1), Some(9));
    assert_eq!(queue.oldest_age_ms(Tick(10)), 6);
}

#[test]
fn who_has_spoken_is_never_evicted() {
    let mut queue = HalfOpenQueue::new(2);
    queue.enter(Tick(0), 1, true);
    queue.enter(Tick(0), 2, false);
    queue.spoke(2);
    queue.spoke(2);
    queue.spoke(9);
    assert_eq!(queue.enter(Tick(1), 3, true), Place::Full);
    assert_eq!(queue.enter(Tick(1), 3, false), Place::Full);
    assert_eq!(queue.leave(Tick(1), 3), None);
    assert_eq!(queue.depth(), 2);
    assert_eq!(queue.leave(Tick(7), 2), Some(7));
    assert_eq!(queue.enter(Tick(7), 3, false), Place::Free);
}

#[test]
fn a_key_that_enters_again_has_one_place() {
    let mut queue = HalfOpenQueue::new(2);
    queue.enter(Tick(0), 1, true);
    queue.enter(Tick(5), 1, false);
    assert_eq!(queue.depth(), 1);
    assert_eq!(queue.oldest_age_ms(Tick(6)), 1);
    queue.enter(Tick(6), 2, false);
    assert_eq!(queue.enter(Tick(7), 3, false), Place::Evicted { key: 1 });
}

#[test]
fn a_lower_bound_lets_nobody_in_for_free() {
    let mut queue = HalfOpenQueue::new(0);
    assert_eq!(queue.enter(Tick(0), 1, false), Place::Free);
    queue.set_bound(3);
    queue.enter(Tick(0), 2, false);
    queue.enter(Tick(0), 3, false);
    queue.set_bound(0);
    assert_eq!(queue.enter(Tick(0), 4, false), Place::Evicted { key: 1 });
    assert_eq!(queue.depth(), 3);
}

#[derive(Clone, Debug)]
enum Step {
    Enter { key: u32, spoke: bool },
    Spoke { key: u32 },
    Leave { key: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0u32..12;
    prop_oneof![
        3 => (key.clone(), any::<bool>()).prop_map(|(key, spoke)| Step::Enter { key, spoke }),
        1 => key.clone().prop_map(|key| Step::Spoke { key }),
        1 => key.prop_map(|key| Step::Leave { key }),
    ]
}

proptest! {
    #[test]
    fn it_does_what_a_plain_list_does(steps in prop::collection::vec(step(), 1..200)) {
        const BOUND: u32 = 6;
        let mut queue = HalfOpenQueue::new(BOUND);
        // In order of entry: key, since, spoke.
        let mut list: Vec<(u32, Tick, bool)> = Vec::new();
        for (step, ms) in steps.into_iter().zip(0..) {
            let now = Tick(ms);
            match step {
                Step::Enter { key, spoke } => {
                    list.retain(|entry| entry.0 != key);
                    let mut expected = Place::Free;
                    if list.len() == BOUND as usize {
                        expected = match list.iter().position(|entry| !entry.2) {
                            Some(oldest) => Place::Evicted { key: list.remove(oldest).0 },
                            None => Place::Full,
                        };
                    }
                    if expected != Place::Full {
                        list.push((key, now, spoke));
                    }
                    prop_assert_eq!(queue.enter(now, key, spoke), expected);
                }
                Step::Spoke { key } => {
                    list.iter_mut().filter(|entry| entry.0 == key).for_each(|entry| entry.2 = true);
                    queue.spoke(key);
                }
                Step::Leave { key } => {
                    let held = list.iter().find(|entry| entry.0 == key).map(|entry| entry.1);
                    list.retain(|entry| entry.0 != key);
                    prop_assert_eq!(queue.leave(now, key), held.map(|since| now.since(since)));
                }
            }
            prop_assert_eq!(queue.depth(), list.len());
            let oldest = list.first().map_or(0, |entry| now.since(entry.1));
            prop_assert_eq!(queue.oldest_age_ms(now), oldest);
        }
        // No entry is left behind where `depth` does not see it.
        prop_assert_eq!(queue.silent.len() + queue.spoke.len(), list.len());
    }
}

#[test]
fn clients_that_return_their_cookie_leave_nothing_out() {
    let mut unproven = Unproven::default();
    // What was counted before does not matter.
    unproven.sample(1_000, 5_000_000, 4_000_000);
    assert_eq!((unproven.depth(), unproven.oldest_age_s()), (0, 0));
    for second in 1..200 {
        unproven.sample(
            1_000 + second,
            5_000_000 + 100 * second,
            4_000_000 + 100 * second,
        );
        assert_eq!(unproven.depth(), 0);
    }
}

#[test]
fn a_flood_is_out_for_as_long_as_a_cookie_is_valid() {
    let mut unproven = Unproven::default();
    let (mut sent, mut returned) = (0, 0);
    for second in 0..500 {
        let flood = (100..110).contains(&second);
        if second > 0 {
            sent += if flood { 1_010 } else { 10 };
            returned += 10;
        }
        unproven.sample(second, sent, returned);
        let (depth, age) = (unproven.depth(), unproven.oldest_age_s());
        match second {
            0..100 => assert_eq!((depth, age), (0, 0), "{second}"),
            100..110 => assert_eq!((depth, age), ((second - 99) * 1_000, second - 100)),
            110..164 => assert_eq!((depth, age), (10_000, second - 100)),
            164..173 => assert_eq!((depth, age), ((173 - second) * 1_000, 63)),
            _ => assert_eq!((depth, age), (0, 0), "{second}"),
        }
    }
}

#[test]
fn a_returned_cookie_is_the_youngest_that_is_out() {
    let mut unproven = Unproven::default();
    unproven.sample(10, 0, 0);
    unproven.sample(11, 5, 0);
    unproven.sample(12, 8, 0);
    unproven.sample(13, 8, 4);
    assert_eq!((unproven.depth(), unproven.oldest_age_s()), (4, 2));
    // More than are known to be out: sent before levee, or another machine, began to count.
    unproven.sample(14, 8, 100);
    assert_eq!((unproven.depth(), unproven.oldest_age_s()), (0, 0));
    unproven.sample(14, 9, 100);
    assert_eq!(unproven.depth(), 1);
}

#[test]
fn gaps_and_counters_that_start_again_do_no_harm() {
    let mut unproven = Unproven::default();
    unproven.sample(10, 0, 0);
    unproven.sample(20, 7, 0);
    unproven.sample(83, 7, 0);
    assert_eq!((unproven.depth(), unproven.oldest_age_s()), (7, 63));
    unproven.sample(1_000_000, 7, 0);
    assert_eq!(unproven.depth(), 0);
    unproven.sample(1_000_001, 3, 0);
    assert_eq!(unproven.depth(), 0);
    unproven.sample(1_000_002, 5, 0);
    assert_eq!(unproven.depth(), 2);
    unproven.sample(1_000_002 - 1, 5, 0);
}
