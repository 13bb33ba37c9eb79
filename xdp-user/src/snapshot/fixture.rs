//! A snapshot in which every number differs, for the tests of what is made of it.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use xdp_common::{abi::COUNTERS, splice::flow::FlowState};

use super::*;
use crate::{
    config::Config,
    engine::{
        Tick,
        handshake::{
            effects,
            outcome::{Notice, Outcome},
        },
        reason::{CloseReason, Refusal},
        tcp::{Side, TcpState},
    },
    reap::KernelStats,
    splicing::{
        directory::{SplicedTarget, timeouts},
        stats::{ServiceStats, state_index},
    },
};

/// Packets that start at `base` in the first slot and grow by one.
pub(crate) fn packets(base: u64) -> Packets {
    let mut packets = [0; COUNTERS];
    for (number, packets) in (base..).zip(&mut packets) {
        *packets = number;
    }
    packets
}

pub(crate) fn snapshot() -> Snapshot {
    Snapshot {
        uptime_s: 3725.5,
        adopted: true,
        key_epoch: 27_000_000,
        reload: Reload {
            successful: true,
            succeeded_unix_s: 1_700_000_000,
        },
        interfaces: vec![InterfaceSnapshot {
            name: "eth0".into(),
            index: 2,
            mode: Mode::Native,
            attached: true,
            packets: packets(1000),
            rates: packets(10),
        }],
        services: vec![ServiceSnapshot {
            name: "web".into(),
            address: "192.0.2.10:443".parse().expect("an address"),
            packets: packets(2000),
            unproven: 2101,
            unproven_oldest_s: 17,
            kernel: Some(Arc::new(watched())),
        }],
        map_pressure: vec![("SERVICES", 0.25), ("FRAGMENTS", 0.0)],
        proxy: Some(proxy()),
        splice: Some(splice()),
    }
}

fn watched() -> Watched {
    let stats = KernelStats::default();
    stats.reaped_close_wait.add(2201);
    stats.syn_recv.set(2202);
    stats.syn_recv_oldest_ms.set(2500);
    Watched {
        name: "web".into(),
        address: "192.0.2.10:443".parse().expect("an address"),
        reap_close_wait: Some(Duration::from_secs(60)),
        stats: Arc::new(stats),
    }
}

const PROXIED: &str = r#"
    [[interface]]
    name = "eth0"
    [[service]]
    name = "app"
    address = "192.0.2.10:80"
    mode = "proxy"
    connections_max = 500
    [[service.backend]]
    name = "a"
    address = "10.0.0.11:80"
    [[service.backend]]
    address = "b.internal:80"
"#;

/// A proxy with one service, of whose two backends one is not resolved, and two workers.
pub(crate) fn proxy() -> ProxySnapshot {
    let config = Config::parse("fixture", PROXIED).expect("a valid configuration");
    let service =
        ServiceRuntime::new(&config.services[0], None, Tick(0)).expect("a service of the proxy");
    service.active.store(3101, Relaxed);
    let stats = &service.stats;
    stats.accepted.add(3001);
    stats.refused[Refusal::ClientRate.index()].add(3002);
    stats.closed[CloseReason::Finished.index()].add(3003);
    stats.closed[CloseReason::IdleTimeout.index()].add(3004);
    stats.closed[CloseReason::HalfOpenEvicted.index()].add(3005);
    for side in Side::ALL {
        let number = 3010 + side.index() as u64;
        stats.states[side.index()][TcpState::Established.index()].set(number as i64);
        stats.bytes[side.index()].add(number + 10);
    }
    stats.connect.observe(Duration::from_millis(1));
    stats.connect.observe(Duration::from_secs(1000));
    stats.retries.add(3006);
    stats.half_open.set(3007);
    stats.half_open_oldest_ms.set(1500);
    let backend = &service.pool.load().backends[0];
    backend.active.store(3102, Relaxed);
    backend.stats.connections.add(3103);
    backend.stats.checks_failed.add(3104);
    backend.stats.checks_not_done.add(3106);
    backend.stats.ejections.add(3105);
    let worker = |number: i64| {
        let worker = WorkerStats::default();
        worker.connections.set(number);
        worker.buffered_bytes.set(number);
        worker.buffer_full.add(number as u64);
        Arc::new(worker)
    };
    ProxySnapshot {
        draining: false,
        connections_max: 100_000,
        limit_entries: LimitEntries {
            entries: 3301,
            uncounted: 3302,
        },
        services: vec![Arc::new(service)],
        workers: vec![worker(3201), worker(3202)],
    }
}

const SPLICED: &str = r#"
    [[interface]]
    name = "eth0"
    [[service]]
    name = "db"
    address = "192.0.2.11:5432"
    mode = "splice"
    [[service.backend]]
    name = "one"
    address = "10.0.0.21:5432"
"#;

/// Spliced connections of one service, to whose only target there is no way.
pub(crate) fn splice() -> SpliceSnapshot {
    let config = Config::parse("fixture", SPLICED).expect("a valid configuration");
    let service = &config.services[0];
    let runtime = ServiceRuntime::new(service, None, Tick(0)).expect("a service with backends");
    let stats = ServiceStats::default();
    stats.outcomes[Outcome::Established.index()].add(4001);
    stats.outcomes[Outcome::Timeout.index()].add(4002);
    stats.notices[Notice::FailedOver.index()].add(4003);
    stats.closed[CloseReason::IdleTimeout.index()].add(4004);
    stats.states[state_index(FlowState::Established)].set(4005);
    stats.states[state_index(FlowState::SynSent)].set(4006);
    stats.handshake.observe(Duration::from_millis(1));
    stats.full.add(4007);
    stats.half_open_oldest_ms.set(2500);
    let thread = ThreadStats::default();
    thread.flows.set(4011);
    thread.received.add(4012);
    thread.sent.add(4013);
    thread.probes.add(4014);
    thread.sweep_us.add(1_500_000);
    let backend = Arc::clone(&runtime.pool.load().backends[0]);
    let spliced = SplicedService {
        engine: effects::Service {
            id: 1,
            window_scale: 7,
            offer: 0,
            attempts_max: 3,
            connect_timeout_ms: 3000,
            half_open_max: 4096,
        },
        addr: service.address.ip().into(),
        port: service.address.port(),
        runtime: Arc::new(runtime),
        stats: Arc::new(stats),
        timeouts: timeouts(service.splice().expect("a spliced service")),
        nat_pool: Vec::new(),
        targets: vec![SplicedTarget { backend, slot: 5 }],
    };
    SpliceSnapshot {
        flows_max: 1 << 20,
        services: vec![Arc::new(spliced)],
        thread: Arc::new(thread),
        obstacles: Arc::new(HashMap::from([(5, "no route".into())])),
    }
}
