//! levee is told to stop: connections go on until they end, or until their time is over.

use std::time::{Duration, Instant};

use levee_tests::{
    pattern::both_ways,
    sockets::{eventually, try_connect},
    splice_lab::SpliceOptions,
};
use nix::sys::signal::Signal;

use crate::common::{Stage, addresses, assert_reset, exchange, services};

/// A levee that waits this long for connections to end.
fn patient(drain_timeout: &str) -> Stage {
    let proxy = format!("[proxy]\ndrain_timeout = \"{drain_timeout}\"\n");
    let configuration = [proxy, services("")].concat();
    Stage::with(SpliceOptions::default(), &configuration)
}

#[test]
fn connections_go_on_until_they_end() {
    const PATIENCE: Duration = Duration::from_secs(60);
    let mut stage = patient("60s");
    let pairs = [stage.pair(0), stage.pair(1)];
    let start = Instant::now();
    stage.levee.signal(Signal::SIGTERM).unwrap();
    eventually("it waits", || {
        stage.levee.log().unwrap().contains("2 connection(s) left")
    });
    for address in addresses() {
        try_connect(&stage.lab.client, address).expect_err("newcomers are refused");
    }
    // Longer than the time in which those who were answered are let in.
    while start.elapsed() < Duration::from_secs(3) {
        exchange(&pairs, 7);
    }
    for (client, server) in &pairs {
        both_ways(client, server, 4);
    }
    let (status, log) = stage.levee.wait(PATIENCE / 2).unwrap();
    assert!(status.success(), "{status}; {log}");
    assert!(log.contains("2 connection(s) left"), "{log}");
    assert!(!log.contains("were reset"), "{log}");
}

/// Both ends are told, also of a connection on which nothing was ever said.
#[test]
fn connections_that_do_not_end_are_reset() {
    let mut stage = patient("1s");
    let pairs = [stage.pair(0), stage.pair(1)];
    stage.levee.signal(Signal::SIGTERM).unwrap();
    for (client, server) in &pairs {
        assert_reset(client);
        assert_reset(server);
    }
    let (status, log) = stage.levee.wait(Duration::from_secs(10)).unwrap();
    assert!(status.success(), "{status}; {log}");
    let told = "2 spliced connection(s) had not ended and were reset";
    assert!(log.contains(told), "{log}");
}

#[test]
fn a_second_signal_ends_the_wait() {
    let mut stage = patient("60s");
    let (client, server) = stage.pair(0);
    stage.levee.signal(Signal::SIGTERM).unwrap();
    eventually("it waits", || {
        stage.levee.log().unwrap().contains("1 connection(s) left")
    });
    stage.levee.signal(Signal::SIGTERM).unwrap();
    assert_reset(&client);
    assert_reset(&server);
    let (status, log) = stage.levee.wait(Duration::from_secs(10)).unwrap();
    assert!(status.success(), "{status}; {log}");
}
