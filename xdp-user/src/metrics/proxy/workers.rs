//! What is counted by worker, and for the proxy as a whole.

use prometheus::proto::MetricFamily;

use crate::{
    engine::reason::AcceptError,
    metrics::family::{Family, flag},
    proxy::stats::WorkerStats,
    snapshot::ProxySnapshot,
};

pub(super) fn families(proxy: &ProxySnapshot) -> Vec<MetricFamily> {
    let mut families = whole(proxy);
    families.extend(workers(proxy));
    families
}

fn sum(proxy: &ProxySnapshot, value: impl Fn(&WorkerStats) -> u64) -> f64 {
    let values = proxy.workers.iter().map(|worker| value(worker));
    values.sum::<u64>() as f64
}

fn whole(proxy: &ProxySnapshot) -> Vec<MetricFamily> {
    let mut accept_errors = Family::counter(
        "levee_accept_errors_total",
        "Failures to accept a client, by reason.",
    );
    for error in AcceptError::ALL {
        let count = sum(proxy, |worker| worker.accept_errors[error.index()].get());
        accept_errors.add(&[("reason", error.label())], count);
    }
    let pipes = Family::gauge("levee_proxy_pipes", "Pipes of the proxy, by use.")
        .with(&[("state", "in_use")], sum(proxy, |w| w.pipes_in_use.get()))
        .with(&[("state", "idle")], sum(proxy, |w| w.pipes_idle.get()));
    let buffered = Family::gauge(
        "levee_proxy_buffered_bytes",
        "Bytes that wait in levee because a receiver is slow.",
    );
    let discarded = Family::counter(
        "levee_proxy_pipes_discarded_total",
        "Pipes thrown away with data in them.",
    );
    let buffer_full = Family::counter(
        "levee_proxy_buffer_full_total",
        "Reads cut short because as many bytes waited in levee as may.",
    );
    let entries = Family::gauge(
        "levee_limit_table_entries",
        "Clients and prefixes whose connections are counted.",
    );
    let uncounted = Family::counter(
        "levee_limit_table_full_total",
        "Connections admitted uncounted because there was no room for their client.",
    );
    let limit = Family::gauge(
        "levee_connections_limit",
        "Connections that the proxy may have at a time.",
    );
    let draining = Family::gauge(
        "levee_draining",
        "Whether levee is stopping and waits for its connections to end.",
    );
    vec![
        accept_errors.build(),
        pipes.build(),
        buffered
            .with(&[], sum(proxy, |w| w.buffered_bytes.get()))
            .build(),
        discarded
            .with(&[], sum(proxy, |w| w.pipes_discarded.get()))
            .build(),
        buffer_full
            .with(&[], sum(proxy, |w| w.buffer_full.get()))
            .build(),
        entries
            .with(&[], proxy.limit_entries.entries as f64)
            .build(),
        uncounted
            .with(&[], proxy.limit_entries.uncounted as f64)
            .build(),
        limit.with(&[], proxy.connections_max.into()).build(),
        draining.with(&[], flag(proxy.draining)).build(),
    ]
}

fn workers(proxy: &ProxySnapshot) -> Vec<MetricFamily> {
    let by_worker = |mut family: Family, value: fn(&WorkerStats) -> f64| {
        for (number, worker) in proxy.workers.iter().enumerate() {
            family.add(&[("worker", &*number.to_string())], value(worker));
        }
        family.build()
    };
    vec![
        by_worker(
            Family::gauge("levee_proxy_worker_connections", "Connections of a worker."),
            |worker| worker.connections.get() as f64,
        ),
        by_worker(
            Family::counter(
                "levee_proxy_panics_total",
                "Connections whose task failed by a defect of levee's.",
            ),
            |worker| worker.panics.get() as f64,
        ),
        by_worker(
            Family::counter(
                "levee_reaper_expired_total",
                "Deadlines of connections looked at because their time had come.",
            ),
            |worker| worker.wheel_fired.get() as f64,
        ),
        by_worker(
            Family::counter(
                "levee_reaper_busy_seconds_total",
                "Time spent looking at deadlines of connections.",
            ),
            |worker| worker.wheel_busy_us.get() as f64 / 1e6,
        ),
    ]
}
