//! What the data path counts.

use prometheus::proto::MetricFamily;
use xdp_common::verdict::{Action, Admission};

use super::family::{Family, flag};
use crate::snapshot::{ServiceSnapshot, Snapshot, by_action, verdicts};

pub(super) fn interfaces(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let mut mode = Family::gauge(
        "levee_xdp_mode",
        "How the XDP program is attached: 1 for the mode in use, 0 when it was lost.",
    );
    let mut actions = Family::counter(
        "levee_xdp_packets_total",
        "Packets by what the XDP program did: pass to the kernel, answer (tx), drop.",
    );
    let mut drops = Family::counter(
        "levee_drop_packets_total",
        "Packets dropped by the XDP program, by reason.",
    );
    let mut passes = Family::counter(
        "levee_pass_packets_total",
        "Packets passed to the kernel by the XDP program, by reason.",
    );
    let mut redirects = Family::counter(
        "levee_redirect_packets_total",
        "Packets forwarded between the sides of spliced connections by the XDP program, or handed to the controller, by reason.",
    );
    for interface in &snapshot.interfaces {
        let name = ("interface", interface.name.as_str());
        let in_use = [name, ("mode", interface.mode.label())];
        mode = mode.with(&in_use, flag(interface.attached));
        for action in Action::ALL {
            let packets = by_action(&interface.packets, action);
            actions = actions.with(&[name, ("action", action.label())], packets as f64);
        }
        let counted = |family: Family, action| {
            verdicts(action).fold(family, |family, verdict| {
                let labels = [name, ("reason", verdict.label())];
                family.with(&labels, interface.packets[verdict.slot()] as f64)
            })
        };
        drops = counted(drops, Action::Drop);
        passes = counted(passes, Action::Pass);
        redirects = counted(redirects, Action::Redirect);
    }
    [mode, actions, drops, passes, redirects]
        .map(Family::build)
        .into()
}

pub(super) fn services(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let active = Family::gauge(
        "levee_protection_active",
        "Whether SYNs to the service are answered with cookies.",
    );
    let active = snapshot.services.iter().fold(active, |family, service| {
        family.with(&[("service", &service.name)], flag(snapshot.active()))
    });
    let per_service = |name, help, value: fn(&ServiceSnapshot) -> u64| {
        let family = Family::counter(name, help);
        let family = snapshot.services.iter().fold(family, |family, service| {
            family.with(&[("service", &service.name)], value(service) as f64)
        });
        family.build()
    };
    vec![
        active.build(),
        per_service(
            "levee_syncookies_sent_total",
            "SYN-ACKs sent with a cookie.",
            ServiceSnapshot::cookies_sent,
        ),
        per_service(
            "levee_syncookies_valid_total",
            "Segments that returned a valid cookie.",
            ServiceSnapshot::cookies_valid,
        ),
        per_service(
            "levee_syncookies_invalid_total",
            "Segments of no connection that returned no valid cookie.",
            ServiceSnapshot::cookies_invalid,
        ),
        per_service(
            "levee_connections_admitted_total",
            "Clients with a valid cookie that the kernel made a socket for.",
            |service| service.admissions(Admission::Admitted),
        ),
        admission_failures(snapshot),
    ]
}

fn admission_failures(snapshot: &Snapshot) -> MetricFamily {
    let mut family = Family::counter(
        "levee_admission_failures_total",
        "Clients with a valid cookie that got no socket: nobody listens, or the kernel refused.",
    );
    for service in &snapshot.services {
        for outcome in [Admission::NoListener, Admission::Refused] {
            let labels = [("service", &*service.name), ("reason", outcome.label())];
            family = family.with(&labels, service.admissions(outcome) as f64);
        }
    }
    family.build()
}
