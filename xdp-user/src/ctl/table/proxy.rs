//! The proxy's part of the table.

use std::cmp::Reverse;

use super::{REASONS_MAX, bytes, duration_ms, grouped, row, table};
use crate::ctl::status::{BackendStatus, ProxyServiceStatus, ProxyStatus};

pub(super) fn render(proxy: &ProxyStatus) -> String {
    let waiting = proxy.workers.iter().map(|worker| worker.buffered_bytes);
    let mut text = format!(
        "Proxy: {} of at most {} connections, {} thread(s), {} wait for slow receivers\n\n",
        grouped(proxy.connections),
        grouped(proxy.connections_max.into()),
        proxy.workers.len(),
        bytes(waiting.sum()),
    );
    text += &table(&services(proxy));
    text += "\n";
    text += &table(&backends(proxy));
    let reasons = reasons(proxy);
    if reasons.len() > 1 {
        text += "\n";
        text += &table(&reasons);
    }
    text
}

fn services(proxy: &ProxyStatus) -> Vec<Vec<String>> {
    let mut rows = vec![row([
        "PROXIED",
        "ACTIVE",
        "ACCEPTED",
        "REFUSED",
        "ENDED",
        "RETRIES",
        "HALF-OPEN",
        "OLDEST",
        "IN",
        "OUT",
    ])];
    rows.extend(proxy.services.iter().map(|service| {
        let ProxyServiceStatus {
            half_open,
            half_open_max,
            ..
        } = service;
        let half_open = format!(
            "{}/{}",
            grouped(*half_open),
            grouped((*half_open_max).into())
        );
        vec![
            service.name.clone(),
            grouped(service.active.into()),
            grouped(service.accepted),
            grouped(service.refused.values().sum()),
            grouped(service.closed.values().sum()),
            grouped(service.retries),
            half_open,
            duration_ms(service.half_open_oldest_ms),
            bytes(service.bytes_from_clients),
            bytes(service.bytes_from_backends),
        ]
    }));
    rows
}

fn backends(proxy: &ProxyStatus) -> Vec<Vec<String>> {
    let mut rows = vec![row([
        "BACKEND", "OF", "ADDRESS", "STATE", "WEIGHT", "ACTIVE", "MADE", "FAILED",
    ])];
    for service in &proxy.services {
        rows.extend(service.backends.iter().map(|b| backend(&service.name, b)));
        rows.extend(service.unresolved.iter().map(|name| {
            let cells = [name.as_str(), &service.name, "-", "UNRESOLVED"];
            row(cells)
        }));
    }
    rows
}

pub(super) fn backend(service: &str, backend: &BackendStatus) -> Vec<String> {
    vec![
        backend.name.clone(),
        service.into(),
        backend.address.to_string(),
        match backend.usable {
            true => backend.state.clone(),
            false => backend.state.to_uppercase(),
        },
        format!("{:.2}", backend.weight),
        grouped(backend.active.into()),
        grouped(backend.connections),
        grouped(backend.failures.values().sum()),
    ]
}

/// Why connections ended and clients were refused, the most frequent first.
fn reasons(proxy: &ProxyStatus) -> Vec<Vec<String>> {
    let mut counted = Vec::new();
    for service in &proxy.services {
        for (what, reasons) in [("refused", &service.refused), ("ended", &service.closed)] {
            let reasons = reasons.iter();
            counted.extend(reasons.map(|(reason, count)| (*count, &service.name, what, reason)));
        }
    }
    counted.sort_by_key(|(count, ..)| Reverse(*count));
    let shown = counted.into_iter().take(REASONS_MAX);
    let mut rows = vec![row(["PROXIED", "CONNECTIONS", "REASON", "NUMBER"])];
    rows.extend(shown.map(|(count, service, what, reason)| {
        vec![service.clone(), what.into(), reason.clone(), grouped(count)]
    }));
    rows
}
