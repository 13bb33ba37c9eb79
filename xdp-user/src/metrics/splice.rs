//! What is counted of spliced connections. Every outcome and every state is there from the start,
//! at 0, as the [proxy](super::proxy)'s are.

use prometheus::proto::MetricFamily;

use super::family::{Family, flag};
use crate::{
    engine::{
        handshake::outcome::{Notice, Outcome},
        reason::CloseReason,
    },
    snapshot::SpliceSnapshot,
    splicing::{
        directory::SplicedService,
        stats::{STATES, ServiceStats},
    },
};

pub(super) fn families(splice: &SpliceSnapshot) -> Vec<MetricFamily> {
    let mut families = flows(splice);
    families.extend(handshakes(splice));
    families.extend(targets(splice));
    families.extend(thread(splice));
    families
}

fn by_service(
    mut family: Family,
    splice: &SpliceSnapshot,
    value: impl Fn(&SplicedService) -> f64,
) -> MetricFamily {
    for service in &splice.services {
        family.add(&[("service", &service.runtime.name)], value(service));
    }
    family.build()
}

/// A family with one value per service and label.
fn by_label(
    mut family: Family,
    splice: &SpliceSnapshot,
    name: &str,
    labels: impl Iterator<Item = &'static str> + Clone,
    value: impl Fn(&ServiceStats, usize) -> u64,
) -> MetricFamily {
    for service in &splice.services {
        for (index, label) in labels.clone().enumerate() {
            let labels = [("service", &*service.runtime.name), (name, label)];
            family.add(&labels, value(&service.stats, index) as f64);
        }
    }
    family.build()
}

fn flows(splice: &SpliceSnapshot) -> Vec<MetricFamily> {
    let states = Family::gauge(
        "levee_flows",
        "Spliced connections in the table by their state, at the last sweep.",
    );
    let closed = Family::counter(
        "levee_flows_closed_total",
        "Spliced connections that were taken out of the table, by reason.",
    );
    let limit = Family::gauge(
        "levee_flows_limit",
        "Spliced connections that there may be at a time.",
    );
    let reasons = CloseReason::ALL.iter().map(|reason| reason.label());
    vec![
        by_label(
            states,
            splice,
            "state",
            STATES.iter().copied(),
            |stats, i| stats.states[i].get(),
        ),
        by_label(closed, splice, "reason", reasons, |stats, i| {
            stats.closed[i].get()
        }),
        limit.with(&[], splice.flows_max.into()).build(),
    ]
}

fn handshakes(splice: &SpliceSnapshot) -> Vec<MetricFamily> {
    let outcomes = Family::counter(
        "levee_handshakes_total",
        "Clients of spliced services that returned their cookie, by what became of them.",
    );
    let notices = Family::counter(
        "levee_handshake_events_total",
        "Events in the handshakes of spliced connections.",
    );
    let mut duration = Family::histogram(
        "levee_handshake_duration_seconds",
        "From the client's cookie to the open connection: a round trip to the target, and levee.",
    );
    for service in &splice.services {
        let labels = [("service", &*service.runtime.name)];
        duration.add_histogram(&labels, &service.stats.handshake.snapshot());
    }
    let full = Family::counter(
        "levee_service_full_total",
        "Clients turned away because the spliced service has as many connections as it may.",
    );
    let outcome_labels = Outcome::ALL.iter().map(|outcome| outcome.label());
    let notice_labels = Notice::ALL.iter().map(|notice| notice.label());
    vec![
        by_label(outcomes, splice, "outcome", outcome_labels, |stats, i| {
            stats.outcomes[i].get()
        }),
        by_label(notices, splice, "event", notice_labels, |stats, i| {
            stats.notices[i].get()
        }),
        duration.build(),
        by_service(full, splice, |service| service.stats.full.get() as f64),
    ]
}

fn targets(splice: &SpliceSnapshot) -> Vec<MetricFamily> {
    let mut reachable = Family::gauge(
        "levee_target_reachable",
        "Whether the way to a target is known: interface, tags and MAC address.",
    );
    let differ = Family::gauge(
        "levee_backends_differ",
        "Whether the TCP of a spliced service's backends differs, so that some offer more than its \
         clients are told.",
    );
    for service in &splice.services {
        for target in &service.targets {
            let address = target.backend.address.to_string();
            let labels = [
                ("service", &*service.runtime.name),
                ("backend", &*target.backend.name),
                ("address", &*address),
            ];
            reachable.add(&labels, flag(!splice.obstacles.contains_key(&target.slot)));
        }
    }
    vec![
        reachable.build(),
        by_service(differ, splice, |service| flag(service.backends_differ())),
    ]
}

fn thread(splice: &SpliceSnapshot) -> Vec<MetricFamily> {
    let stats = &splice.thread;
    let counter = |name, help, value: u64| {
        let family = Family::counter(name, help);
        family.with(&[], value as f64).build()
    };
    vec![
        counter(
            "levee_splice_frames_received_total",
            "Frames that the data path handed over to the splice thread.",
            stats.received.get(),
        ),
        counter(
            "levee_splice_frames_sent_total",
            "Frames that the splice thread sent.",
            stats.sent.get(),
        ),
        counter(
            "levee_splice_frames_unsent_total",
            "Frames that the splice thread could not send; whoever needs them asks again.",
            stats.send_failed.get(),
        ),
        counter(
            "levee_splice_frames_unreadable_total",
            "Frames handed over to the splice thread that are corrupt.",
            stats.unreadable.get(),
        ),
        counter(
            "levee_flow_probes_total",
            "Keepalive probes to ends that have probably reset their spliced connection.",
            stats.probes.get(),
        ),
        Family::counter(
            "levee_flow_sweep_seconds_total",
            "Time spent looking through the table of spliced connections.",
        )
        .with(&[], stats.sweep_us.get() as f64 / 1e6)
        .build(),
    ]
}
