//! Connections in the making, on either side of levee.

use prometheus::proto::MetricFamily;
use xdp_common::splice::flow::FlowState;

use super::{
    family::Family,
    proxy::{by_service, closed},
};
use crate::{
    engine::{reason::CloseReason, tcp::Side},
    snapshot::Snapshot,
    splicing::stats::state_index,
};

pub(super) fn families(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let mut depth = Family::gauge(
        "levee_half_open_connections",
        "Connections in the making, by leg: client, cookies sent that have not come back, about; \
         kernel, SYNs that the kernel itself answered; backend, connects in progress.",
    );
    let mut age = Family::gauge(
        "levee_half_open_oldest_age_seconds",
        "Age of the oldest connection in the making, by leg.",
    );
    for service in &snapshot.services {
        let labels = [("service", &*service.name), ("leg", Side::Client.label())];
        depth.add(&labels, service.unproven as f64);
        age.add(&labels, service.unproven_oldest_s as f64);
        if let Some(watched) = &service.kernel {
            let labels = [("service", &*service.name), ("leg", "kernel")];
            depth.add(&labels, watched.stats.syn_recv.get() as f64);
            age.add(&labels, watched.stats.syn_recv_oldest_ms.get() as f64 / 1e3);
        }
    }
    let mut limit = Family::gauge(
        "levee_half_open_limit",
        "Connections that may be in the making at a time, by leg.",
    );
    for service in snapshot.proxy.iter().flat_map(|proxy| &proxy.services) {
        let labels = [("service", &*service.name), ("leg", Side::Backend.label())];
        let stats = &service.stats;
        depth.add(&labels, stats.half_open.get() as f64);
        age.add(&labels, stats.half_open_oldest_ms.get() as f64 / 1e3);
        limit.add(&labels, service.config.half_open_max.into());
    }
    for service in snapshot.splice.iter().flat_map(|splice| &splice.services) {
        let name = &*service.runtime.name;
        let labels = [("service", name), ("leg", Side::Backend.label())];
        let stats = &service.stats;
        let pending = stats.states[state_index(FlowState::SynSent)].get();
        depth.add(&labels, pending as f64);
        age.add(&labels, stats.half_open_oldest_ms.get() as f64 / 1e3);
        limit.add(&labels, service.engine.half_open_max.into());
    }
    let mut families = vec![depth.build(), age.build(), limit.build()];
    if let Some(proxy) = &snapshot.proxy {
        let evicted = Family::counter(
            "levee_half_open_evicted_total",
            "Connects in progress of silent clients that made room for others.",
        );
        families.push(by_service(evicted, proxy, |service| {
            closed(service, CloseReason::HalfOpenEvicted)
        }));
    }
    families
}
