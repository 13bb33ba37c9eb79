//! The part of the table that is about spliced connections.

use super::{duration_ms, grouped, row, table};
use crate::ctl::status::{SpliceServiceStatus, SpliceStatus, TargetStatus};

pub(super) fn render(splice: &SpliceStatus) -> String {
    let mut text = format!(
        "Spliced: {} of at most {} connections\n\n",
        grouped(splice.flows),
        grouped(splice.flows_max.into()),
    );
    text += &table(&services(splice));
    text += "\n";
    text += &table(&targets(splice));
    for service in &splice.services {
        for target in &service.backends {
            if let Some(obstacle) = &target.obstacle {
                text += &format!("{} cannot be reached: {obstacle}\n", target.backend.address);
            }
        }
        if service.backends_differ {
            text += &format!(
                "The backends of {} differ: its clients are offered what all of them do.\n",
                service.name
            );
        }
    }
    text
}

fn services(splice: &SpliceStatus) -> Vec<Vec<String>> {
    let mut rows = vec![row([
        "SPLICED",
        "OPEN",
        "CLOSING",
        "OVER",
        "MADE",
        "FAILED",
        "ENDED",
        "HALF-OPEN",
        "OLDEST",
    ])];
    rows.extend(splice.services.iter().map(service));
    rows
}

fn service(service: &SpliceServiceStatus) -> Vec<String> {
    let sum = |names: &[&str]| {
        let counts = names.iter().filter_map(|name| service.states.get(*name));
        grouped(counts.sum())
    };
    let made = service.handshakes.get("established").copied().unwrap_or(0);
    let all: u64 = service.handshakes.values().sum();
    let half_open = service.states.get("SYN_SENT").copied().unwrap_or(0);
    vec![
        service.name.clone(),
        sum(&["ESTABLISHED"]),
        sum(&["CLOSE_WAIT", "FIN_WAIT", "LAST_ACK"]),
        sum(&["TIME_WAIT", "CLOSED"]),
        grouped(made),
        grouped(all - made),
        grouped(service.closed.values().sum()),
        format!(
            "{}/{}",
            grouped(half_open),
            grouped(service.half_open_max.into())
        ),
        duration_ms(service.half_open_oldest_ms),
    ]
}

fn targets(splice: &SpliceStatus) -> Vec<Vec<String>> {
    let mut rows = vec![row([
        "BACKEND", "OF", "ADDRESS", "STATE", "WEIGHT", "ACTIVE", "MADE", "FAILED", "TCP",
    ])];
    for service in &splice.services {
        rows.extend(service.backends.iter().map(|t| target(&service.name, t)));
    }
    rows
}

fn target(service: &str, target: &TargetStatus) -> Vec<String> {
    let mut cells = super::proxy::backend(service, &target.backend);
    cells.push(target.agreed.clone().unwrap_or_else(|| "-".into()));
    cells
}
