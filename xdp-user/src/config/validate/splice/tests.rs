use std::{fmt::Write as _, sync::Arc, time::Duration};

use super::*;
use crate::config::{Balance, Check, Config, Limits, ProxyService, SPLICE_SERVICES_MAX, Timeouts};

/// Ends inside the service's table, before its backends.
const SERVICE: &str = "\
[[interface]]
name = \"eth0\"

[[service]]
address = \"192.0.2.10:443\"
mode = \"splice\"
";

const BACKEND: &str = "[[service.backend]]\naddress = \"10.0.0.11:8443\"\n";

fn parse(text: &str) -> Result<Config, String> {
    Config::parse("levee.toml", text).map_err(|error| error.to_string())
}

fn with(keys: &str) -> String {
    format!("{SERVICE}{keys}\n{BACKEND}")
}

fn splice(keys: &str) -> Arc<SpliceService> {
    let config = parse(&with(keys)).unwrap();
    Arc::clone(config.services[0].splice().unwrap())
}

#[test]
fn defaults_are_the_documented_ones() {
    let splice = splice("");
    assert_eq!(splice.nat, Nat::Dnat);
    assert_eq!((splice.last_ack_ms, splice.time_wait_ms), (60_000, 60_000));
    let common = &splice.common;
    let expected = Timeouts {
        header_ms: 0,
        connect_ms: 3_000,
        first_byte_ms: 0,
        idle_ms: (2 * 60 + 4) * 60_000,
        close_wait_ms: 240_000,
        fin_wait_ms: 240_000,
    };
    assert_eq!(common.timeouts, expected);
    assert_eq!((common.retries, common.half_open_max), (2, 4096));
    assert!(common.spliced);
    assert_eq!(common.check, None);
    let config = parse(&with("")).unwrap();
    assert_eq!(config.splice.flows_max, 1_048_576);
}

#[test]
fn everything_can_be_set() {
    let keys = r#"
        nat = "full"
        nat_pool = ["10.0.0.5", "10.0.0.6"]
        mss = 1400
        window_scale = 5
        balance = "client_hash"
        connect_timeout = "500ms"
        retries = 1
        idle_timeout = "off"
        close_wait_timeout = "10s"
        fin_wait_timeout = "11s"
        last_ack_timeout = "12s"
        time_wait_timeout = "1s"
        half_open_max = 100
        connections_max = 1000
        slow_start = "1m"
        [service.check]
        type = "tcp"
        [service.ejection]
        failures = 2
    "#;
    let text = format!("[splice]\nflows_max = 16777215\n{}", with(keys));
    let config = parse(&text).unwrap();
    assert_eq!(config.splice.flows_max, FLOWS_MAX);
    let service = &config.services[0];
    assert_eq!((service.mss, service.window_scale), (Some(1400), Some(5)));
    let splice = service.splice().unwrap();
    let pool = ["10.0.0.5", "10.0.0.6"].map(|ip| ip.parse().unwrap());
    assert_eq!(splice.nat, Nat::Full(pool.to_vec()));
    assert_eq!((splice.last_ack_ms, splice.time_wait_ms), (12_000, 1_000));
    let expected = ProxyService {
        balance: Balance::ClientHash,
        check: Some(Check::Tcp),
        timeouts: Timeouts {
            header_ms: 0,
            connect_ms: 500,
            first_byte_ms: 0,
            idle_ms: 0,
            close_wait_ms: 10_000,
            fin_wait_ms: 11_000,
        },
        retries: 1,
        half_open_max: 100,
        limits: Limits {
            service: 1000,
            ..Limits::default()
        },
        ..ProxyService::clone(&splice.common)
    };
    assert_eq!(*splice.common, expected);
    assert_eq!(expected.health.slow_start, Duration::from_secs(60));
    assert_eq!(expected.health.eject_failures, 2);
}

/// Keys of a service in `splice` mode, the first on line 7, the line, and the error.
#[test]
fn errors_name_file_line_key_found_and_allowed() {
    let pool = "allowed: 1 to 64 addresses of this machine, each once, of the family of the \
                service's and other than it";
    let cases = [
        (
            "nat = \"snat\"",
            7,
            "service.nat: found \"snat\", allowed: \"dnat\" or \"full\"".into(),
        ),
        (
            "nat = \"full\"",
            7,
            "service.nat: found \"full\" without nat_pool, allowed: \"full\" with a nat_pool"
                .into(),
        ),
        (
            "nat_pool = [\"10.0.0.5\"]",
            7,
            "service.nat_pool: found addresses without nat = \"full\", allowed: only with nat = \
             \"full\""
                .into(),
        ),
        (
            "nat = \"full\"\nnat_pool = []",
            8,
            format!("service.nat_pool: found no address, {pool}"),
        ),
        (
            "nat = \"full\"\nnat_pool = [\"10.0.0.5\", \"10.0.0.5\"]",
            8,
            format!("service.nat_pool: found an address a second time, {pool}"),
        ),
        (
            "nat = \"full\"\nnat_pool = [\"2001:db8::5\"]",
            8,
            format!("service.nat_pool: found \"2001:db8::5\", {pool}"),
        ),
        (
            "nat = \"full\"\nnat_pool = [\"192.0.2.10\"]",
            8,
            format!("service.nat_pool: found \"192.0.2.10\", {pool}"),
        ),
        (
            "time_wait_timeout = \"0s\"",
            7,
            "service.time_wait_timeout: found \"0s\", allowed: a duration from 1s to 24d, in ms, \
             s, m, h or d, such as \"30s\""
                .into(),
        ),
    ];
    for (keys, line, expected) in cases {
        assert_eq!(
            parse(&with(keys)).unwrap_err(),
            format!("levee.toml:{line}: {expected}"),
            "{keys}"
        );
    }
    let text = format!("[splice]\nflows_max = 16777216\n{}", with(""));
    assert_eq!(
        parse(&text).unwrap_err(),
        "levee.toml:2: splice.flows_max: found 16777216, allowed: a whole number from 64 to \
         16777215"
    );
}

#[test]
fn backends_are_servers_elsewhere_of_the_services_family() {
    let other = format!("{SERVICE}[[service.backend]]\naddress = \"[2001:db8::1]:80\"\n");
    assert_eq!(
        parse(&other).unwrap_err(),
        "levee.toml:8: service.backend.address: found \"[2001:db8::1]:80\" with mode = \
         \"splice\", allowed: an address of the family of the service's"
    );
    let host = "[[service]]\naddress = \"10.0.0.11:8443\"\n";
    assert_eq!(
        parse(&format!("{}{host}", with(""))).unwrap_err(),
        "levee.toml:9: service.backend.address: found \"10.0.0.11:8443\", the address of the \
         service 10.0.0.11:8443 in host mode, allowed: the address of a server"
    );
}

fn many(services: usize, backends: usize) -> String {
    let mut text = "[[interface]]\nname = \"eth0\"\n".to_owned();
    for n in 0..services {
        let address = format!("10.1.{}.{}:80", n >> 8, n & 255);
        write!(
            text,
            "[[service]]\naddress = \"{address}\"\nmode = \"splice\"\n"
        )
        .unwrap();
        for m in 0..backends {
            let address = format!("10.2.{}.{m}:80", n & 255);
            write!(text, "[[service.backend]]\naddress = \"{address}\"\n").unwrap();
        }
    }
    text
}

#[test]
fn services_and_targets_are_bounded() {
    assert!(parse(&many(SPLICE_SERVICES_MAX, 4)).is_ok());
    let error = parse(&many(SPLICE_SERVICES_MAX, 5)).unwrap_err();
    assert!(
        error.contains(
            "service.backend: found 1280 backends of services with mode = \"splice\", allowed: at \
             most 1024"
        ),
        "{error}"
    );
    let error = parse(&many(SPLICE_SERVICES_MAX + 1, 1)).unwrap_err();
    let expected = "service.mode: found 257 services with mode = \"splice\", allowed: at most 256";
    assert!(error.contains(expected), "{error}");
}
