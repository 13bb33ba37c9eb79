use proptest::prelude::*;

use super::*;

const T: u64 = 1_700_000_000 / EPOCH_S * EPOCH_S;

fn secret() -> Secret {
    Secret::new([7; 32])
}

fn state(unix_s: u64) -> KeyState {
    Schedule::at(unix_s).state(&secret())
}

/// The value was computed with `openssl kdf -keylen 16 -kdfopt digest:SHA256 -kdfopt
/// hexkey:0707..07 -kdfopt hexinfo:<INFO><epoch> HKDF`.
#[test]
fn derivation_is_hkdf_sha256() {
    let key = derive(&secret(), 0x0102_0304);
    assert_eq!(key.0, [0x814d_6f8f_9a66_b747, 0xdb24_7583_e29a_78bc]);
}

#[test]
fn keys_differ_by_epoch_and_secret() {
    let base = derive(&secret(), 1);
    assert!(base != derive(&secret(), 2));
    assert!(base != derive(&secret(), 1 << 32 | 1), "all 64 bits count");
    assert!(base != derive(&Secret::new([8; 32]), 1));
    assert!(base == derive(&secret(), 1));
}

#[test]
fn the_neighbour_changes_at_the_lead() {
    let epoch = T / EPOCH_S;
    let at = |s| Schedule::at(T + s);
    let pair = |current, neighbour| Schedule { current, neighbour };
    assert_eq!(at(0), pair(epoch, epoch - 1));
    assert_eq!(at(EPOCH_S - KEY_LEAD_S - 1), pair(epoch, epoch - 1));
    assert_eq!(at(EPOCH_S - KEY_LEAD_S), pair(epoch, epoch + 1));
    assert_eq!(at(EPOCH_S - 1), pair(epoch, epoch + 1));
    assert_eq!(at(EPOCH_S), pair(epoch + 1, epoch));
}

#[test]
fn the_beginning_of_time_has_two_keys_too() {
    let start = Schedule {
        current: 0,
        neighbour: 1,
    };
    assert_eq!(Schedule::at(0), start);
    assert_eq!(Schedule::at(EPOCH_S - 1), start);
    let last = Schedule::at(u64::MAX);
    assert_eq!(last.neighbour.abs_diff(last.current), 1);
}

#[test]
fn slots_are_the_lowest_bit_of_the_epoch() {
    for offset_s in 0..4 * EPOCH_S {
        let schedule = Schedule::at(T + offset_s);
        let keys = schedule.keys(&secret());
        for epoch in [schedule.current, schedule.neighbour] {
            assert!(keys[(epoch & 1) as usize] == derive(&secret(), epoch));
        }
    }
}

/// Ticking once a second, every change takes one write, and a cookie lives as long as promised.
#[test]
fn in_the_course_of_time_every_change_is_one_step() {
    let mut held = state(T);
    for unix_s in T..T + 4 * EPOCH_S {
        let wanted = state(unix_s);
        let steps = steps(held, wanted);
        assert!(steps.len() <= 1, "{} steps at {unix_s}", steps.len());
        held = steps.last().copied().unwrap_or(held);
        assert_eq!(held, wanted);
        let issued_in = |age_s: u64| derive(&secret(), (unix_s - age_s) / EPOCH_S);
        for age_s in 0..=EPOCH_S - KEY_LEAD_S {
            let lives = held.keys.contains(&issued_in(age_s));
            assert!(lives, "age {age_s} at {unix_s}");
        }
    }
}

#[test]
fn nothing_to_do_takes_no_step() {
    assert!(steps(state(T), state(T + 1)).is_empty());
}

proptest! {
    /// The clock may jump anywhere, as after a suspend or a wrong clock: the slot in use is never
    /// rewritten, and the end is the wanted state.
    #[test]
    fn the_slot_in_use_is_never_rewritten(from in 0_u64..1 << 40, to in 0_u64..1 << 40) {
        check_jump(from, to);
    }

    #[test]
    fn short_jumps_too(from in T..T + 10 * EPOCH_S, to in T..T + 10 * EPOCH_S) {
        check_jump(from, to);
    }
}

fn check_jump(from: u64, to: u64) {
    let (mut held, wanted) = (state(from), state(to));
    let steps = steps(held, wanted);
    assert!(steps.len() <= 4);
    for step in &steps {
        let in_use = held.slot as usize;
        assert!(step.keys[in_use] == held.keys[in_use], "rewritten in use");
        if step.slot != held.slot {
            assert!(step.keys == held.keys, "a flip changes no key");
            let key = &step.keys[step.slot as usize];
            assert!(wanted.keys.contains(key), "flipped to a key not in force");
        }
        held = *step;
    }
    assert_eq!(held, wanted);
}
