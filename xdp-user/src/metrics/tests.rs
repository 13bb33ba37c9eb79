use xdp_common::verdict::Verdict;

use super::*;
use crate::snapshot::fixture::snapshot;

fn render(snapshot: Option<&Snapshot>) -> String {
    Metrics::new().unwrap().render(snapshot).unwrap()
}

#[test]
fn every_value_has_its_line() {
    let text = render(Some(&snapshot()));
    for line in [
        "levee_build_info{version=\"0.1.0\"} 1",
        "levee_bpf_map_pressure{map=\"SERVICES\"} 0.25",
        "levee_cookie_key_epoch 27000000",
        "levee_config_last_reload_successful 1",
        "levee_config_last_reload_success_timestamp_seconds 1700000000",
        "levee_xdp_mode{interface=\"eth0\",mode=\"native\"} 1",
        "levee_xdp_packets_total{interface=\"eth0\",action=\"tx\"} 1007",
        "levee_drop_packets_total{interface=\"eth0\",reason=\"cookie_invalid\"} 1021",
        "levee_pass_packets_total{interface=\"eth0\",reason=\"connection\"} 1003",
        "levee_protection_active{service=\"web\"} 1",
        "levee_syncookies_sent_total{service=\"web\"} 2007",
        "levee_syncookies_valid_total{service=\"web\"} 2004",
        "levee_syncookies_invalid_total{service=\"web\"} 2021",
        "levee_connections_admitted_total{service=\"web\"} 2025",
        "levee_admission_failures_total{service=\"web\",reason=\"no_listener\"} 2026",
        "levee_admission_failures_total{service=\"web\",reason=\"refused\"} 2027",
    ] {
        assert!(
            text.lines().any(|l| l == line),
            "{line} is missing:\n{text}"
        );
    }
    assert!(text.contains("\nprocess_resident_memory_bytes "));
}

#[test]
fn every_reason_is_there_even_at_zero() {
    let mut snapshot = snapshot();
    snapshot.interfaces[0].packets = [0; xdp_common::abi::COUNTERS];
    let text = render(Some(&snapshot));
    for verdict in Verdict::ALL {
        let family = match verdict.action() {
            Action::Pass => "pass",
            Action::Drop => "drop",
            Action::Reply => continue,
        };
        let reason = verdict.label();
        let line =
            format!("levee_{family}_packets_total{{interface=\"eth0\",reason=\"{reason}\"}} 0\n");
        assert!(text.contains(&line), "{line}");
    }
}

#[test]
fn a_lost_interface_protects_nothing() {
    let mut snapshot = snapshot();
    snapshot.interfaces[0].attached = false;
    let text = render(Some(&snapshot));
    assert!(text.contains("levee_xdp_mode{interface=\"eth0\",mode=\"native\"} 0\n"));
    assert!(text.contains("levee_protection_active{service=\"web\"} 0\n"));
}

#[test]
fn during_the_start_there_is_the_build_and_the_process() {
    let text = render(None);
    assert!(text.contains("levee_build_info"));
    assert!(text.contains("process_start_time_seconds"));
    assert!(!text.contains("levee_xdp_mode"));
}

#[test]
fn promtool_has_nothing_to_say() {
    promtool::check(&render(Some(&snapshot())));
}
