use xdp_common::verdict::{Action, Verdict};

use super::*;
use crate::{
    engine::{
        reason::{CloseReason, Refusal},
        tcp::TcpState,
    },
    proxy::runtime::Pool,
    snapshot::fixture::snapshot,
};

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
        "levee_datapath_adopted 1",
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
        "levee_connections_admitted_total{service=\"web\"} 2033",
        "levee_admission_failures_total{service=\"web\",reason=\"no_listener\"} 2034",
        "levee_admission_failures_total{service=\"web\",reason=\"refused\"} 2035",
    ] {
        assert!(
            text.lines().any(|l| l == line),
            "{line} is missing:\n{text}"
        );
    }
    assert!(text.contains("\nprocess_resident_memory_bytes "));
    for (name, process) in [
        ("levee_proxy_fds", "process_open_fds"),
        ("levee_proxy_fds_limit", "process_max_fds"),
    ] {
        let value = |name| {
            let mut lines = text.lines().filter_map(|line| line.split_once(' '));
            lines
                .find(|(found, _)| *found == name)
                .map(|(_, value)| value)
        };
        assert!(value(name).is_some(), "{name}");
        assert_eq!(value(name), value(process));
    }
}

#[test]
fn what_is_not_configured_has_no_family() {
    let mut snapshot = snapshot();
    snapshot.proxy = None;
    snapshot.splice = None;
    for service in &mut snapshot.services {
        service.kernel = None;
    }
    let text = render(Some(&snapshot));
    assert!(!text.contains("levee_connections_reaped_total"));
    assert!(text.contains("levee_syncookies_sent_total"));
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
            Action::Redirect => "redirect",
            Action::Reply => continue,
        };
        let reason = verdict.label();
        let line =
            format!("levee_{family}_packets_total{{interface=\"eth0\",reason=\"{reason}\"}} 0\n");
        assert!(text.contains(&line), "{line}");
    }
}

#[test]
fn every_value_of_the_proxy_has_its_line() {
    let text = render(Some(&snapshot()));
    let address = "service=\"app\",backend=\"a\",address=\"10.0.0.11:80\"";
    for line in [
        "levee_connections_accepted_total{service=\"app\"} 3001",
        "levee_connections_refused_total{service=\"app\",reason=\"client_rate\"} 3002",
        "levee_connections_closed_total{service=\"app\",reason=\"finished\"} 3003",
        "levee_connections_reaped_total{service=\"app\",reason=\"idle_timeout\"} 3004",
        "levee_half_open_evicted_total{service=\"app\"} 3005",
        "levee_backend_retries_total{service=\"app\"} 3006",
        "levee_half_open_connections{service=\"app\",leg=\"backend\"} 3007",
        "levee_half_open_oldest_age_seconds{service=\"app\",leg=\"backend\"} 1.5",
        "levee_half_open_limit{service=\"app\",leg=\"backend\"} 4096",
        "levee_connections{service=\"app\",leg=\"client\",state=\"ESTABLISHED\"} 3010",
        "levee_connections{service=\"app\",leg=\"backend\",state=\"ESTABLISHED\"} 3011",
        "levee_proxy_bytes_total{service=\"app\",direction=\"in\"} 3020",
        "levee_proxy_bytes_total{service=\"app\",direction=\"out\"} 3021",
        "levee_backend_connect_duration_seconds_bucket{service=\"app\",le=\"0.001024\"} 1",
        "levee_backend_connect_duration_seconds_bucket{service=\"app\",le=\"+Inf\"} 2",
        "levee_backend_connect_duration_seconds_sum{service=\"app\"} 1000.001",
        "levee_backend_connect_duration_seconds_count{service=\"app\"} 2",
        "levee_backend_first_byte_duration_seconds_count{service=\"app\"} 0",
        "levee_service_limit_connections{service=\"app\"} 500",
        "levee_backend_resolved{service=\"app\",backend=\"a\"} 1",
        "levee_backend_resolved{service=\"app\",backend=\"b.internal:80\"} 0",
        "levee_proxy_buffered_bytes 6403",
        "levee_proxy_worker_connections{worker=\"1\"} 3202",
        "levee_connections_limit 100000",
        "levee_limit_table_entries 3301",
        "levee_limit_table_full_total 3302",
        "levee_proxy_buffer_full_total 6403",
        &format!("levee_backend_checks_total{{{address},result=\"not_done\"}} 3106"),
        "levee_draining 0",
        "levee_half_open_connections{service=\"web\",leg=\"client\"} 2101",
        "levee_half_open_oldest_age_seconds{service=\"web\",leg=\"client\"} 17",
        "levee_half_open_connections{service=\"web\",leg=\"kernel\"} 2202",
        "levee_half_open_oldest_age_seconds{service=\"web\",leg=\"kernel\"} 2.5",
        "levee_connections_reaped_total{service=\"web\",reason=\"close_wait_timeout\"} 2201",
        &format!("levee_backend_state{{{address},state=\"up\"}} 1"),
        &format!("levee_backend_state{{{address},state=\"ejected\"}} 0"),
        &format!("levee_backend_up{{{address}}} 1"),
        &format!("levee_backend_weight{{{address}}} 1"),
        &format!("levee_backend_connections{{{address}}} 3102"),
        &format!("levee_backend_connections_total{{{address}}} 3103"),
        &format!("levee_backend_checks_total{{{address},result=\"failed\"}} 3104"),
        &format!("levee_backend_ejections_total{{{address}}} 3105"),
    ] {
        assert!(
            text.lines().any(|l| l == line),
            "{line} is missing:\n{text}"
        );
    }
}

#[test]
fn every_value_of_spliced_connections_has_its_line() {
    let text = render(Some(&snapshot()));
    let target = "service=\"db\",backend=\"one\",address=\"10.0.0.21:5432\"";
    for line in [
        "levee_flows{service=\"db\",state=\"ESTABLISHED\"} 4005",
        "levee_flows{service=\"db\",state=\"TIME_WAIT\"} 0",
        "levee_flows_closed_total{service=\"db\",reason=\"idle_timeout\"} 4004",
        "levee_flows_limit 1048576",
        "levee_connections_reaped_total{service=\"db\",reason=\"idle_timeout\"} 4004",
        "levee_handshakes_total{service=\"db\",outcome=\"established\"} 4001",
        "levee_handshakes_total{service=\"db\",outcome=\"timeout\"} 4002",
        "levee_handshake_events_total{service=\"db\",event=\"failed_over\"} 4003",
        "levee_handshake_duration_seconds_count{service=\"db\"} 1",
        "levee_service_full_total{service=\"db\"} 4007",
        "levee_half_open_connections{service=\"db\",leg=\"backend\"} 4006",
        "levee_half_open_oldest_age_seconds{service=\"db\",leg=\"backend\"} 2.5",
        "levee_half_open_limit{service=\"db\",leg=\"backend\"} 4096",
        "levee_backends_differ{service=\"db\"} 0",
        "levee_splice_frames_received_total 4012",
        "levee_splice_frames_sent_total 4013",
        "levee_flow_probes_total 4014",
        "levee_flow_sweep_seconds_total 1.5",
        &format!("levee_target_reachable{{{target}}} 0"),
        &format!("levee_backend_up{{{target}}} 1"),
    ] {
        assert!(
            text.lines().any(|l| l == line),
            "{line} is missing:\n{text}"
        );
    }
}

#[test]
fn every_reason_of_the_proxy_is_there_even_at_zero() {
    let text = render(Some(&snapshot()));
    let closed = CloseReason::ALL
        .iter()
        .map(|reason| ("closed", reason.label()));
    let reaped = CloseReason::ALL.iter().filter(|reason| reason.is_reaped());
    let reaped = reaped.map(|reason| ("reaped", reason.label()));
    let refused = Refusal::ALL
        .iter()
        .map(|reason| ("refused", reason.label()));
    for (what, reason) in closed.chain(reaped).chain(refused) {
        let series =
            format!("levee_connections_{what}_total{{service=\"app\",reason=\"{reason}\"}} ");
        assert!(text.contains(&series), "{series}");
    }
    for &state in TcpState::ALL {
        let labels = format!("leg=\"client\",state=\"{state}\"");
        assert!(text.contains(&format!("levee_connections{{service=\"app\",{labels}}} ")));
    }
}

#[test]
fn without_a_proxy_there_is_nothing_of_it() {
    let mut snapshot = snapshot();
    snapshot.proxy = None;
    snapshot.splice = None;
    let text = render(Some(&snapshot));
    assert!(
        !text.contains("levee_backend") && !text.contains("reaper"),
        "{text}"
    );
}

#[test]
fn there_need_not_be_any_backend_nor_any_reaping() {
    let mut snapshot = snapshot();
    snapshot.services[0].kernel = None;
    snapshot.splice = None;
    let proxy = snapshot.proxy.as_mut().unwrap();
    proxy.services[0].pool.store(Pool::default());
    let text = render(Some(&snapshot));
    assert!(!text.contains("levee_backend_up"), "{text}");
    assert!(text.contains("levee_connections_reaped_total{"), "{text}");
    snapshot.proxy = None;
    let text = render(Some(&snapshot));
    assert!(!text.contains("levee_connections_reaped_total"), "{text}");
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
