use std::{sync::atomic::AtomicUsize, thread};

use super::*;
use crate::{
    backends::fixture::{runtime, service},
    config::Mode,
    engine::balancer::WEIGHT_UNIT,
};

const BACKENDS: [&str; 4] = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"];
const CHECKED: &str = "[service.check]\ntype = \"tcp\"\nrise = 2\nfall = 3";

fn usable(service: &ServiceRuntime) -> Vec<bool> {
    let pool = service.pool.load();
    let backends = pool.backends.iter();
    backends.map(|b| b.usable.load(Relaxed)).collect()
}

fn check(service: &ServiceRuntime, backend: usize, ok: bool) {
    let result = match ok {
        true => Ok(Checked {
            took: Duration::from_millis(3),
            agreed: None,
        }),
        false => Err(CheckError::Refused),
    };
    let backend = &service.pool.load().backends[backend];
    service.report_check(backend, Tick(5), result);
}

fn connect(service: &ServiceRuntime, backend: usize, now: Tick, result: Result<(), ConnectError>) {
    service.report_connect(&service.pool.load().backends[backend], now, result);
}

fn fail(service: &ServiceRuntime, backend: usize, now: Tick, times: usize) {
    for _ in 0..times {
        connect(service, backend, now, Err(ConnectError::Refused));
    }
}

#[test]
fn before_any_check_all_are_used_then_those_that_are_up() {
    let service = runtime(CHECKED, &BACKENDS);
    service.tick(Tick(0));
    assert_eq!(usable(&service), [true; 4]);
    check(&service, 1, false);
    assert_eq!(usable(&service), [true, false, true, true]);
    check(&service, 2, true);
    assert_eq!(usable(&service), [false, false, true, false]);
}

#[test]
fn checks_bring_a_backend_down_and_up() {
    let service = runtime(CHECKED, &BACKENDS[..1]);
    let backend = &service.pool.load().backends[0];
    check(&service, 0, true);
    for (ok, expected) in [
        (false, true),
        (false, true),
        (false, false),
        (true, false),
        (true, true),
    ] {
        check(&service, 0, ok);
        assert_eq!(usable(&service), [expected]);
    }
    assert_eq!(backend.stats.checks_ok.get(), 3);
    assert_eq!(backend.stats.checks_failed.get(), 3);
    let observed = backend.stats.check_duration.snapshot();
    assert_eq!(observed.counts.iter().sum::<u64>(), 3);
    let last = LastCheck {
        at: Tick(5),
        result: Ok(Duration::from_millis(3)),
    };
    assert_eq!(backend.last_check(), Some(last));
}

#[test]
fn a_check_that_could_not_be_done_changes_nothing() {
    let service = runtime(CHECKED, &BACKENDS[..1]);
    check(&service, 0, true);
    let backend = &service.pool.load().backends[0];
    for _ in 0..10 {
        let result = Err(CheckError::NotDone("no descriptors".into()));
        service.report_check(backend, Tick(9), result);
    }
    assert_eq!(usable(&service), [true]);
    assert_eq!(backend.stats.checks_not_done.get(), 10);
    assert_eq!(backend.stats.checks_failed.get(), 0);
    assert_eq!(backend.last_check().unwrap().at, Tick(5));
}

#[test]
fn failed_connects_in_a_row_eject_for_a_time() {
    let service = runtime("", &BACKENDS);
    let now = Tick(1000);
    fail(&service, 0, now, 4);
    connect(&service, 0, now, Ok(()));
    fail(&service, 0, now, 4);
    assert_eq!(usable(&service), [true; 4]);
    // What is this machine's own trouble does not count.
    for error in [ConnectError::Fds, ConnectError::NoLocalPort] {
        connect(&service, 0, now, Err(error));
    }
    assert_eq!(usable(&service), [true; 4]);
    fail(&service, 0, now, 1);
    assert_eq!(usable(&service), [false, true, true, true]);
    let stats = &service.pool.load().backends[0].stats;
    assert_eq!(stats.ejections.get(), 1);
    assert_eq!(stats.connections.get(), 1);
    assert_eq!(stats.failures[ConnectError::Refused.index()].get(), 9);
    assert_eq!(stats.failures[ConnectError::Fds.index()].get(), 1);
    service.tick(now.after(29_999));
    assert_eq!(usable(&service), [false, true, true, true]);
    service.tick(now.after(30_000));
    assert_eq!(usable(&service), [true; 4]);
}

#[test]
fn the_last_usable_backend_is_never_ejected_even_when_all_fail_at_once() {
    let config = service("", &BACKENDS[..2]);
    let runtime = |_| ServiceRuntime::new(&config, None, Tick(0)).unwrap();
    let rounds: Vec<_> = (0..2000).map(runtime).collect();
    for service in &rounds {
        fail(service, 0, Tick(1), 4);
        fail(service, 1, Tick(1), 4);
    }
    // Who waits keeps its CPU if it can: woken from sleep it would come too late to meet.
    let arrived = AtomicUsize::new(0);
    thread::scope(|scope| {
        for backend in 0..2 {
            let (rounds, arrived) = (&rounds, &arrived);
            scope.spawn(move || {
                for (round, service) in (1..).zip(rounds) {
                    arrived.fetch_add(1, Relaxed);
                    while arrived.load(Relaxed) < 2 * round {
                        thread::yield_now();
                    }
                    fail(service, backend, Tick(1), 1);
                }
            });
        }
    });
    for service in &rounds {
        let left = usable(service).into_iter().filter(|&usable| usable);
        assert_eq!(left.count(), 1);
    }
}

#[test]
fn a_backend_that_comes_back_starts_slowly() {
    let keys = format!("slow_start = \"10s\"\n{CHECKED}");
    let service = runtime(&keys, &BACKENDS[..2]);
    check(&service, 0, true);
    let backend = &service.pool.load().backends[0];
    assert_eq!(backend.weight_now.load(Relaxed), WEIGHT_UNIT);
    for ok in [false, false, false, true, true] {
        check(&service, 0, ok);
    }
    service.tick(Tick(2_505));
    assert_eq!(backend.weight_now.load(Relaxed), WEIGHT_UNIT / 4);
    service.tick(Tick(10_005));
    assert_eq!(backend.weight_now.load(Relaxed), WEIGHT_UNIT);
}

#[test]
fn a_reload_keeps_what_is_known_and_joins_what_is_new() {
    let first = runtime(CHECKED, &BACKENDS[..1]);
    check(&first, 0, true);
    let again = service(&format!("slow_start = \"10s\"\n{CHECKED}"), &BACKENDS[..2]);
    let second = ServiceRuntime::new(&again, Some(&first), Tick(9)).unwrap();
    let (before, after) = (first.pool.load(), second.pool.load());
    assert!(Arc::ptr_eq(&before.backends[0], &after.backends[0]));
    check(&second, 1, true);
    second.tick(Tick(10));
    assert_eq!(after.backends[0].weight_now.load(Relaxed), WEIGHT_UNIT);
    assert!(after.backends[1].weight_now.load(Relaxed) < WEIGHT_UNIT);
}

#[test]
fn another_weight_is_no_other_backend() {
    let first = runtime(CHECKED, &BACKENDS[..2]);
    check(&first, 0, false);
    check(&first, 1, true);
    let mut again = service(CHECKED, &BACKENDS[..2]);
    let mut config = (**again.proxy().unwrap()).clone();
    config.backends[0].weight = 7;
    config.backends[1].weight = 7;
    config.backends[1].connections_max = 1;
    again.mode = Mode::Proxy(Arc::new(config));
    let second = ServiceRuntime::new(&again, Some(&first), Tick(9)).unwrap();
    assert_eq!(usable(&second), [false, true]);
    let (before, after) = (first.pool.load(), second.pool.load());
    assert_eq!(after.backends[0].stats.checks_failed.get(), 1);
    assert_eq!(after.backends[1].weight_now.load(Relaxed), 7 * WEIGHT_UNIT);
    // A connection made before counts against the new bound.
    let _place = before.backends[1].try_take().unwrap();
    assert!(after.backends[1].try_take().is_none());
}

#[test]
fn what_checks_took_down_is_up_when_there_are_no_more_checks() {
    let first = runtime(CHECKED, &BACKENDS[..1]);
    check(&first, 0, false);
    assert_eq!(usable(&first), [false]);
    let unchecked = service("", &BACKENDS[..1]);
    let second = ServiceRuntime::new(&unchecked, Some(&first), Tick(9)).unwrap();
    let pool = second.pool.load();
    second.put_in_force(
        Pool {
            backends: pool.backends.clone(),
        },
        Tick(10),
    );
    assert_eq!(usable(&second), [true]);
}
