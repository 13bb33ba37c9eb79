//! Changing the configuration of a running levee, on a real kernel.

use std::{fs, path::PathBuf, thread};

use crate::common::{Lab, Levee, eventually, get, levee, metric, refusal};
use levee::{
    config::SERVICES_MAX,
    ctl::{self, Request, Response},
};
use nix::sys::signal::Signal;

const INTERFACE: &str = "[[interface]]\nname = \"lv0\"\n";

fn write(lab: &Lab, services: &[&str]) -> PathBuf {
    let services: String = services
        .iter()
        .map(|address| format!("[[service]]\naddress = \"{address}\"\n"))
        .collect();
    lab.write_config(&format!("{INTERFACE}{services}"))
}

fn addresses(running: &Levee) -> Vec<String> {
    let status = running.status();
    let addresses = status.services.iter().map(|s| s.address.to_string());
    addresses.collect()
}

fn reload(lab: &Lab) -> String {
    let mut command = levee("reload --socket");
    let output = command.arg(lab.path("levee.sock")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn services_change_at_run_time() {
    let lab = Lab::new();
    let config = write(&lab, &["192.0.2.1:80", "192.0.2.1:81"]);
    let running = lab.start(&mut lab.run_config(&config));
    assert_eq!(addresses(&running), ["192.0.2.1:80", "192.0.2.1:81"]);

    write(&lab, &["192.0.2.1:81", "[2001:db8::1]:82"]);
    assert_eq!(
        reload(&lab),
        "reloaded: 2 service(s) protected\nadded: [2001:db8::1]:82\nremoved: 192.0.2.1:80\n"
    );
    assert_eq!(addresses(&running), ["192.0.2.1:81", "[2001:db8::1]:82"]);

    write(&lab, &["192.0.2.3:83"]);
    running.signal(Signal::SIGHUP);
    eventually("reloaded", || addresses(&running) == ["192.0.2.3:83"]);
    assert!(
        running
            .log()
            .contains("configuration reloaded: 1 service(s), 1 added, 2 removed")
    );
}

/// A reload waits a second for the one before it.
#[test]
fn one_reload_answers_all_who_wait_for_it() {
    const CLIENTS: usize = 40;
    let lab = Lab::new();
    let config = write(&lab, &["192.0.2.1:80"]);
    let running = lab.start(&mut lab.run_config(&config));
    let socket = lab.path("levee.sock");
    let ask = || ctl::request(&socket, Request::Reload).unwrap();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(ask)).collect();
        for client in clients {
            assert!(matches!(client.join().unwrap(), Response::Reloaded(_)));
        }
    });
    let reloads = running.log().matches("configuration reloaded").count();
    assert!((1..CLIENTS / 2).contains(&reloads), "{reloads}");
}

#[test]
fn a_bad_file_changes_nothing_and_shows() {
    let lab = Lab::new();
    let config = write(&lab, &["192.0.2.1:80"]);
    let running = lab.start(&mut lab.run_config(&config));
    let good = metric("levee_config_last_reload_success_timestamp_seconds");
    fs::write(&config, "nonsense = 1\n").unwrap();
    let text = refusal(levee("reload --socket").arg(lab.path("levee.sock")));
    assert!(
        text.contains("levee.toml:1: unknown field `nonsense`"),
        "{text}"
    );
    assert!(
        running
            .log()
            .contains("the configuration before it stays in force")
    );
    assert_eq!(addresses(&running), ["192.0.2.1:80"]);
    assert_eq!(metric("levee_config_last_reload_successful"), Some(0.0));
    assert_eq!(
        metric("levee_config_last_reload_success_timestamp_seconds"),
        good
    );
    write(&lab, &["192.0.2.1:80"]);
    reload(&lab);
    assert_eq!(metric("levee_config_last_reload_successful"), Some(1.0));
}

#[test]
fn what_needs_a_restart_is_named() {
    let lab = Lab::new();
    let config = write(&lab, &["192.0.2.1:80"]);
    let running = lab.start(&mut lab.run_config(&config));
    let service = "[[service]]\naddress = \"192.0.2.1:80\"\n";
    lab.write_config(&format!(
        "verify_syn_checksum = false\n{INTERFACE}[[interface]]\nname = \"lv1\"\n{service}"
    ));
    let text = reload(&lab);
    let expected = "needs a restart of levee: verify_syn_checksum, interface\n";
    assert!(text.ends_with(expected), "{text}");
    assert!(
        running
            .log()
            .contains("changed and need a restart of levee: verify_syn_checksum")
    );
}

#[test]
fn flags_cannot_be_reloaded() {
    let lab = Lab::new();
    let _running = lab.start(&mut lab.run_flags("--metrics off"));
    let text = refusal(levee("reload --socket").arg(lab.path("levee.sock")));
    assert!(
        text.contains("started without a configuration file"),
        "{text}"
    );
}

#[test]
fn as_many_services_as_allowed_are_loaded_and_all_of_them_replaced() {
    let lab = Lab::new();
    let write_range = |range: std::ops::Range<usize>| {
        let addresses: Vec<_> = range
            .map(|n| format!("10.0.{}.{}:80", n >> 8, n & 255))
            .collect();
        let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
        write(&lab, &addresses)
    };
    let running = lab.start(&mut lab.run_config(&write_range(0..SERVICES_MAX)));
    assert_eq!(
        metric("levee_bpf_map_pressure{map=\"SERVICES\"}"),
        Some(1.0)
    );
    let lines = get("/metrics").1;
    let sent = lines
        .lines()
        .filter(|line| line.starts_with("levee_syncookies_sent_total{"));
    assert_eq!(sent.count(), SERVICES_MAX);
    write_range(1..SERVICES_MAX + 1);
    let text = reload(&lab);
    let expected =
        "reloaded: 4096 service(s) protected\nadded: 10.0.16.0:80\nremoved: 10.0.0.0:80\n";
    assert_eq!(text, expected);
    write_range(SERVICES_MAX + 1..2 * SERVICES_MAX + 1);
    assert!(reload(&lab).starts_with("reloaded: 4096 service(s) protected\nadded: 10.0.16.1:80, "));
    assert_eq!(running.status().services.len(), SERVICES_MAX);
}
