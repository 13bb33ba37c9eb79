use std::time::Duration;

use super::*;
use crate::config::{
    BACKENDS_MAX, Backend, Balance, Check, HealthPolicy, Keepalive, Limits, ProxyGlobals,
    ProxyService, ProxyVersion, Target, Timeouts,
};

/// Ends inside the service's table, before its backends.
const SERVICE: &str = "\
[[interface]]
name = \"eth0\"

[[service]]
address = \"192.0.2.10:443\"
mode = \"proxy\"
";

const BACKEND: &str = "[[service.backend]]\naddress = \"10.0.0.11:8443\"\n";

fn parse(text: &str) -> Result<Config, ConfigError> {
    config("levee.toml", text)
}

/// A service with keys of its own, tables after them, and one backend.
fn with(keys: &str) -> String {
    format!("{SERVICE}{keys}\n{BACKEND}")
}

fn proxy(text: &str) -> Arc<ProxyService> {
    let config = parse(text).unwrap();
    Arc::clone(config.services[0].proxy().unwrap())
}

fn error(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

fn backend(name: &str, address: &str) -> Backend {
    Backend {
        name: name.into(),
        target: Target::Address(address.parse().unwrap()),
        weight: 1,
        connections_max: 0,
    }
}

#[test]
fn defaults_are_the_documented_ones() {
    let config = parse(&with("")).unwrap();
    assert_eq!(config.proxy, ProxyGlobals::default());
    let expected = ProxyService {
        backends: vec![backend("10.0.0.11:8443", "10.0.0.11:8443")],
        balance: Balance::RoundRobin,
        check: None,
        health: HealthPolicy::default(),
        timeouts: Timeouts::default(),
        retries: 2,
        half_open_max: 4096,
        limits: Limits::default(),
        send_proxy: None,
        accept_proxy: Vec::new(),
        accept_proxy_required: true,
        transparent: false,
        source: Vec::new(),
        spliced: false,
        keepalive: [None, None],
    };
    assert_eq!(**config.services[0].proxy().unwrap(), expected);
}

const EVERYTHING: &str = r#"
    [proxy]
    workers = 3
    connections_max = 5000
    pipes_max = 0
    buffer_max = "1MiB"
    drain_timeout = "0s"
    dns_server = "127.0.0.1:53"
    [[interface]]
    name = "eth0"
    [[service]]
    address = "192.0.2.10:443"
    mode = "proxy"
    balance = "client_hash"
    connect_timeout = "10ms"
    retries = 0
    first_byte_timeout = "1h"
    idle_timeout = "off"
    close_wait_timeout = "24d"
    fin_wait_timeout = "1s"
    header_timeout = "100ms"
    half_open_max = 1
    connections_max = 100
    connections_per_client_max = 10
    connections_per_prefix_max = 20
    new_connections_per_client = "600/m"
    new_connections_burst = 7
    send_proxy = "v2"
    accept_proxy = ["10.0.0.0/8", "2001:db8::1"]
    accept_proxy_required = false
    transparent = false
    source = ["10.0.0.1", "2001:db8::2"]
    client_keepalive = "classic"
    backend_keepalive = { idle = "1m", interval = "2s", count = 4 }
    slow_start = "1m"
    [service.check]
    type = "http"
    path = "/health?deep=1"
    host = "app.internal:8080"
    status = ["200-299", "404", 418]
    interval = "500ms"
    timeout = "500ms"
    rise = 1
    fall = 100
    [service.ejection]
    failures = 0
    duration = "1h"
    [[service.backend]]
    address = "App.Internal:8443"
    name = "a"
    weight = 256
    connections_max = 50
    [[service.backend]]
    address = "[2001:db8::11]:8443"
    weight = 0
"#;

#[test]
fn the_proxy_as_a_whole_can_be_set() {
    let expected = ProxyGlobals {
        workers: Some(3),
        connections_max: 5000,
        pipes_max: 0,
        buffer_bytes_max: 1 << 20,
        drain_timeout: Duration::ZERO,
        dns_server: Some("127.0.0.1:53".parse().unwrap()),
    };
    assert_eq!(parse(EVERYTHING).unwrap().proxy, expected);
}

#[test]
fn everything_can_be_set() {
    let first = Backend {
        name: "a".into(),
        target: Target::Name {
            host: "app.internal".into(),
            port: 8443,
        },
        weight: 256,
        connections_max: 50,
    };
    let mut second = backend("[2001:db8::11]:8443", "[2001:db8::11]:8443");
    second.weight = 0;
    let expected = ProxyService {
        backends: vec![first, second],
        balance: Balance::ClientHash,
        check: Some(Check::Http {
            path: "/health?deep=1".into(),
            host: Some("app.internal:8080".into()),
            status: vec![200..=299, 404..=404, 418..=418],
        }),
        health: HealthPolicy {
            interval: Duration::from_millis(500),
            timeout: Duration::from_millis(500),
            rise: 1,
            fall: 100,
            eject_failures: 0,
            eject_duration: Duration::from_secs(3600),
            slow_start: Duration::from_secs(60),
        },
        timeouts: Timeouts {
            header_ms: 100,
            connect_ms: 10,
            first_byte_ms: 3_600_000,
            idle_ms: 0,
            close_wait_ms: 2_073_600_000,
            fin_wait_ms: 1000,
        },
        retries: 0,
        half_open_max: 1,
        limits: Limits {
            service: 100,
            per_client: 10,
            per_prefix: 20,
            rate_per_minute: 600,
            rate_burst: 7,
        },
        send_proxy: Some(ProxyVersion::V2),
        accept_proxy: vec![
            "10.0.0.0/8".parse().unwrap(),
            "2001:db8::1/128".parse().unwrap(),
        ],
        accept_proxy_required: false,
        transparent: false,
        spliced: false,
        source: vec!["10.0.0.1".parse().unwrap(), "2001:db8::2".parse().unwrap()],
        keepalive: [
            Some(Keepalive::CLASSIC),
            Some(Keepalive {
                idle: Duration::from_secs(60),
                interval: Duration::from_secs(2),
                count: 4,
            }),
        ],
    };
    assert_eq!(*proxy(EVERYTHING), expected);
}

#[test]
fn what_follows_from_other_keys() {
    let limits = |keys| proxy(&with(keys)).limits;
    assert_eq!(
        limits("new_connections_per_client = \"100/s\"").rate_burst,
        100
    );
    assert_eq!(limits("new_connections_per_client = \"5/m\"").rate_burst, 1);
    let short = proxy(&with(
        "[service.check]\ntype = \"tcp\"\ninterval = \"200ms\"",
    ));
    assert_eq!(short.health.timeout, Duration::from_millis(200));
    assert_eq!(short.check, Some(Check::Tcp));
    let tls = proxy(&with(
        "[service.check]\ntype = \"tls\"\nserver_name = \"a.example\"\nca_file = \"/ca.pem\"",
    ));
    let expected = Check::Tls {
        name: Some("a.example".into()),
        ca_file: Some("/ca.pem".into()),
    };
    assert_eq!(tls.check, Some(expected));
    let beat = proxy(&with(
        "client_keepalive = \"heartbeat\"\ntransparent = true",
    ));
    assert_eq!(beat.keepalive, [Some(Keepalive::HEARTBEAT), None]);
    assert!(beat.transparent);
}

/// Keys of a service in `proxy` mode, on line 7, and the error.
#[test]
fn errors_name_file_line_key_found_and_allowed() {
    let cases = [
        (
            "balance = \"random\"",
            "service.balance: found \"random\", allowed: \"round_robin\", \"least_connections\" or \
             \"client_hash\"",
        ),
        (
            "connect_timeout = \"6m\"",
            "service.connect_timeout: found \"6m\", allowed: a duration from 10ms to 5m, in ms, s, \
             m, h or d, such as \"30s\"",
        ),
        (
            "connect_timeout = 3",
            "service.connect_timeout: found 3, allowed: a string, in quotes",
        ),
        (
            "retries = 11",
            "service.retries: found 11, allowed: a whole number from 0 to 10",
        ),
        (
            "idle_timeout = \"25d\"",
            "service.idle_timeout: found \"25d\", allowed: \"off\", or a duration from 1s to 24d, \
             in ms, s, m, h or d, such as \"30s\"",
        ),
        (
            "half_open_max = 0",
            "service.half_open_max: found 0, allowed: a whole number from 1 to 1000000",
        ),
        (
            "new_connections_per_client = \"5/h\"",
            "service.new_connections_per_client: found \"5/h\", allowed: \"off\", or a rate from \
             1/m to 1000000/s, such as \"100/s\" or \"600/m\"",
        ),
        (
            "new_connections_burst = 5",
            "service.new_connections_burst: found 5 without new_connections_per_client, allowed: \
             a burst where there is a rate",
        ),
        (
            "send_proxy = \"v3\"",
            "service.send_proxy: found \"v3\", allowed: \"off\", \"v1\" or \"v2\"",
        ),
        (
            "accept_proxy = [\"10.0.0.0/33\"]",
            "service.accept_proxy: found \"10.0.0.0/33\", allowed: addresses, such as \
             \"192.0.2.7\", \"10.0.0.0/8\" or \"2001:db8::/32\"",
        ),
        (
            "accept_proxy = \"10.0.0.0/8\"",
            "service.accept_proxy: found \"10.0.0.0/8\", allowed: an array of strings, such as \
             [\"...\"]",
        ),
        (
            "accept_proxy_required = true",
            "service.accept_proxy_required: found true without accept_proxy, allowed: only with \
             addresses in accept_proxy",
        ),
        (
            "source = [\"0.0.0.0\"]",
            "service.source: found \"0.0.0.0\", allowed: addresses of this machine, such as \
             \"10.0.0.5\" or \"2001:db8::5\"",
        ),
        (
            "source = [\"10.0.0.5\"]\ntransparent = true",
            "service.source: found addresses together with transparent = true, allowed: either: \
             with transparent, connections come from the client's own address",
        ),
        (
            "client_keepalive = \"often\"",
            "service.client_keepalive: found \"often\", allowed: \"off\", \"classic\" (2 h, 75 s, \
             10 probes), \"heartbeat\" (30 s, 5 s, 3 probes) or a table such as { idle = \"30s\", \
             interval = \"5s\", count = 3 }",
        ),
        (
            "backend_keepalive = { idle = \"1500ms\", interval = \"1s\", count = 1 }",
            "service.backend_keepalive: idle: found \"1500ms\", allowed: whole seconds",
        ),
        (
            "reap_close_wait = \"1m\"",
            "service.reap_close_wait: found it in a service with mode = \"proxy\", allowed: only \
             with mode = \"host\"",
        ),
        (
            "[service.check]",
            "service.check.type: found nothing, allowed: \"tcp\", \"http\" or \"tls\"",
        ),
    ];
    for (keys, expected) in cases {
        assert_eq!(
            error(&with(keys)),
            format!("levee.toml:7: {expected}"),
            "{keys}"
        );
    }
}

/// Keys of a check, on line 9, and the error.
#[test]
fn checks_have_the_keys_of_their_type() {
    let cases = [
        (
            "tcp",
            "path = \"/\"",
            "path: found it in a check of another type, allowed: only with type = \"http\"",
        ),
        (
            "http",
            "verify = \"none\"",
            "verify: found it in a check of another type, allowed: only with type = \"tls\"",
        ),
        (
            "http",
            "path = \"health\"",
            "path: found \"health\", allowed: a path that begins with /, at most 1024 bytes, in \
             which spaces and the like are written as %20, such as \"/health\"",
        ),
        (
            "http",
            "path = \"/<a>\"",
            "path: found \"/<a>\", allowed: a path that begins with /, at most 1024 bytes, in \
             which spaces and the like are written as %20, such as \"/health\"",
        ),
        (
            "http",
            "host = \"a b\"",
            "host: found \"a b\", allowed: the name of a host, with a port if it is another than \
             80, such as \"www.example.org\"",
        ),
        (
            "http",
            "status = [\"399-200\"]",
            "status: found \"399-200\", allowed: 1 to 16 statuses from 100 to 599 or ranges of \
             them, such as [\"200-399\", \"404\"]",
        ),
        (
            "tls",
            "verify = \"ca\"",
            "verify: found \"ca\" without ca_file, allowed: \"ca\" with a ca_file",
        ),
        (
            "tls",
            "ca_file = \"ca.pem\"",
            "ca_file: found \"ca.pem\", allowed: the absolute path of a file",
        ),
        (
            "tcp",
            "timeout = \"3s\"",
            "timeout: found \"3s\", allowed: at most the interval, 2s",
        ),
        (
            "tcp",
            "rise = 0",
            "rise: found 0, allowed: a whole number from 1 to 100",
        ),
    ];
    for (kind, key, expected) in cases {
        let keys = format!("[service.check]\ntype = \"{kind}\"\n{key}");
        let expected = format!("levee.toml:9: service.check.{expected}");
        assert_eq!(error(&with(&keys)), expected, "{key}");
    }
}

/// What follows the service's keys, and the error.
#[test]
fn backends_are_servers_elsewhere() {
    let server = |text: &str| format!("[[service.backend]]\naddress = \"{text}\"\n");
    let allowed = "allowed: ADDRESS:PORT or NAME:PORT of a server";
    for text in [
        "10.0.0.11",
        "10.0.0.11:0",
        "0.0.0.0:80",
        "[::]:80",
        "224.0.0.1:80",
        "[::ffff:10.0.0.1]:80",
        "[fe80::1]:80",
        "10.0.0.300:80",
        "10.0.0:80",
        "a b:80",
        "-a:80",
        "a..b:80",
        "app:65536",
        "app:+80",
        ":80",
        "2001:db8::1:80",
    ] {
        let error = error(&format!("{SERVICE}{}", server(text)));
        assert!(
            error.starts_with("levee.toml:8: service.backend.address: found \""),
            "{error}"
        );
        assert!(error.contains(allowed), "{error}");
    }
    assert_eq!(
        error(SERVICE),
        "levee.toml:4: service.backend: found 0 backends, allowed: 1 to 64, each as \
         [[service.backend]]"
    );
    let many = |count: usize| (1..=count).map(|n| server(&format!("10.0.0.{n}:80")));
    let many = |count| format!("{SERVICE}{}", many(count).collect::<String>());
    assert_eq!(proxy(&many(BACKENDS_MAX)).backends.len(), BACKENDS_MAX);
    assert!(error(&many(BACKENDS_MAX + 1)).contains("found 65 backends, allowed: 1 to 64"));
    let twice = format!("{SERVICE}{BACKEND}{BACKEND}");
    assert!(error(&twice).starts_with(
        "levee.toml:10: service.backend.address: found \"10.0.0.11:8443\" a second time (first on \
         line 8)"
    ));
    let named = "name = \"10.0.0.11:8443\"\n";
    let twice = format!("{SERVICE}{BACKEND}{}{named}", server("10.0.0.12:8443"));
    assert!(error(&twice).starts_with(
        "levee.toml:10: service.backend.name: found \"10.0.0.11:8443\" a second time (first on \
         line 8)"
    ));
}

#[test]
fn a_connection_does_not_go_round() {
    let own = "[[service.backend]]\naddress = \"192.0.2.10:443\"\n";
    assert_eq!(
        error(&format!("{SERVICE}{own}")),
        "levee.toml:8: service.backend.address: found \"192.0.2.10:443\", the address of the \
         service 192.0.2.10:443 in proxy mode, allowed: the address of a server"
    );
    let host = "[[service]]\naddress = \"192.0.2.10:80\"\n";
    let next = "[[service.backend]]\naddress = \"192.0.2.10:80\"\n";
    assert!(parse(&format!("{SERVICE}{next}{host}")).is_ok());
    let proxied = format!("{host}mode = \"proxy\"\n{BACKEND}");
    assert!(error(&format!("{SERVICE}{next}{proxied}")).starts_with("levee.toml:8: "));
    let service = SERVICE.replace("192.0.2.10:443", "[2001:db8::10]:443");
    let zone = "[[service.backend]]\naddress = \"[2001:db8::10%7]:443\"\n";
    let error = error(&format!("{service}{zone}"));
    assert!(
        error.contains("the address of the service [2001:db8::10]:443 in"),
        "{error}"
    );
}

#[test]
fn transparent_connections_are_of_the_clients_family() {
    let other = "transparent = true\n[[service.backend]]\naddress = \"[2001:db8::1]:80\"\n";
    assert_eq!(
        error(&format!("{SERVICE}{other}")),
        "levee.toml:9: service.backend.address: found \"[2001:db8::1]:80\" with transparent = \
         true, allowed: an address of the family of the service's"
    );
}

#[test]
fn the_proxy_as_a_whole_is_judged() {
    let cases = [
        (
            "workers = 0",
            "proxy.workers: found 0, allowed: a whole number from 1 to 256",
        ),
        (
            "connections_max = 0",
            "proxy.connections_max: found 0, allowed: a whole number from 1 to 10000000",
        ),
        (
            "buffer_max = \"64MB\"",
            "proxy.buffer_max: found \"64MB\", allowed: a size from 1MiB to 64GiB, in B, KiB, MiB \
             or GiB, such as \"64MiB\"",
        ),
        (
            "drain_timeout = \"2h\"",
            "proxy.drain_timeout: found \"2h\", allowed: a duration from 0s to 1h, in ms, s, m, h \
             or d, such as \"30s\"",
        ),
        (
            "dns_server = \"127.0.0.1\"",
            "proxy.dns_server: found \"127.0.0.1\", allowed: ADDRESS:PORT of a DNS server, such as \
             \"127.0.0.1:53\"",
        ),
    ];
    for (key, expected) in cases {
        let text = format!("[proxy]\n{key}\n{}", with(""));
        assert_eq!(error(&text), format!("levee.toml:2: {expected}"), "{key}");
    }
}

#[test]
fn more_proxy_services_than_metrics_can_tell_apart_are_refused() {
    let service = |n: usize| {
        let address = format!("10.1.{}.{}:80", n >> 8, n & 255);
        format!("[[service]]\naddress = \"{address}\"\nmode = \"proxy\"\n{BACKEND}")
    };
    let text = |count: usize| {
        let services: String = (0..count).map(service).collect();
        format!("[[interface]]\nname = \"eth0\"\n{services}")
    };
    assert!(parse(&text(PROXY_SERVICES_MAX)).is_ok());
    assert!(
        error(&text(PROXY_SERVICES_MAX + 1)).contains(
            "service.mode: found 257 services with mode = \"proxy\", allowed: at most 256"
        )
    );
}

/// Every key that a service may have is refused in the modes that do not have it.
#[test]
fn keys_of_one_mode_are_refused_in_the_others() {
    let listed = error("[[interface]]\nname = \"a\"\n[[service]]\nno_key = 1\n");
    let (_, listed) = listed.split_once("expected one of ").unwrap();
    let keys: Vec<_> = listed
        .split(", ")
        .map(|key| key.trim_matches('`'))
        .collect();
    assert!(keys.len() > 30, "{keys:?}");
    for key in keys {
        let of: &[&str] = match key {
            "name" | "address" | "mode" | "mss" | "window_scale" => &["host", "proxy", "splice"],
            "reap_close_wait" => &["host"],
            "window" => &["host", "proxy"],
            "nat" | "nat_pool" | "last_ack_timeout" | "time_wait_timeout" => &["splice"],
            "balance" | "connect_timeout" | "retries" | "idle_timeout" | "close_wait_timeout"
            | "fin_wait_timeout" | "half_open_max" | "connections_max" | "slow_start" | "check"
            | "ejection" | "backend" => &["proxy", "splice"],
            _ => &["proxy"],
        };
        let words: Vec<_> = of.iter().map(|of| format!("\"{of}\"")).collect();
        let allowed = words.join(" or ");
        let given = match key {
            "check" | "ejection" => format!("[service.{key}]\n"),
            "backend" => BACKEND.into(),
            _ => format!("{key} = \"?\"\n"),
        };
        for mode in ["host", "proxy", "splice"] {
            let service = SERVICE.replace("\"proxy\"", &format!("\"{mode}\""));
            let text = parse(&format!("{service}{given}"))
                .err()
                .map_or_else(String::new, |error| error.to_string());
            let refusal = format!(
                "service.{key}: found it in a service with mode = \"{mode}\", allowed: only with \
                 mode = {allowed}"
            );
            assert_eq!(
                text.contains(&refusal),
                !of.contains(&mode),
                "{key}: {text}"
            );
        }
    }
}

#[test]
fn host_services_may_have_their_close_wait_reaped() {
    let text = |value: &str| {
        let service = SERVICE.replace("mode = \"proxy\"", "mode = \"host\"");
        format!("{service}reap_close_wait = \"{value}\"\n")
    };
    let reap = |value| {
        let config = parse(&text(value)).unwrap();
        config.services[0].mode.clone()
    };
    let every = |s| {
        Mode::Host(HostOptions {
            reap_close_wait: Some(Duration::from_secs(s)),
        })
    };
    assert_eq!(reap("10s"), every(10));
    assert_eq!(reap("off"), Mode::Host(HostOptions::default()));
    assert!(error(&text("9s")).contains("service.reap_close_wait: found \"9s\", allowed: \"off\""));
}

#[test]
fn prefixes_contain_addresses_of_their_family() {
    let prefix = |text: &str| text.parse::<crate::config::Prefix>();
    let eight = prefix("10.1.2.3/8").unwrap();
    assert!(eight.contains("10.255.0.1".parse().unwrap()));
    assert!(eight.contains("::ffff:10.9.9.9".parse().unwrap()));
    assert!(!eight.contains("11.0.0.0".parse().unwrap()));
    assert!(
        !prefix("0.0.0.0/0")
            .unwrap()
            .contains("2001:db8::".parse().unwrap())
    );
    assert!(
        prefix("2001:db8::1")
            .unwrap()
            .contains("2001:db8::1".parse().unwrap())
    );
    for text in [
        "",
        "10.0.0.0/",
        "10.0.0.0/+8",
        "10.0.0.0/8/8",
        "2001:db8::/129",
        "x/8",
        "/8",
    ] {
        assert!(
            prefix(text)
                .unwrap_err()
                .contains("allowed: addresses, such as"),
            "{text}"
        );
    }
}
