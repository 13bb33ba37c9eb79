//! Every query of dashboard and alerts, against a levee in use and under attack.

use std::{
    io::{self, Read as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use levee_tests::{
    client::{Load, LoadSpec},
    flood::{FloodKind, FloodSpec},
    levee::{Levee, ProxySetup},
    netns::Netns,
    server::Nginx,
    topology::{CLIENT_V4, HOST_V4, INTERFACE, Lab, LabOptions},
};
use nix::sys::signal::Signal;

use crate::{dashboard, expression, prometheus::Prometheus};

/// Of a server on the host itself.
const HOST_PORT: u16 = 80;
/// Of a pool of two: one works, one is down.
const CHECKED_PORT: u16 = 8080;
/// Of a pool of two without checks: one works, one refuses.
const UNCHECKED_PORT: u16 = 8081;
/// Of a pool that has to be reached by few clients: limits, timeouts.
const LIMITED_PORT: u16 = 8082;
/// Of a backend that answers no SYN.
const SILENT_PORT: u16 = 8083;
/// Where that one is: what the host sends to the flood's sources is dropped.
const SILENT_BACKEND: &str = "198.18.0.1:80";
/// Spliced, to a server behind the same interface.
const SPLICED_PORT: u16 = 8084;
/// Where that server is.
const SPLICED_BACKEND: (Ipv4Addr, u16) = (CLIENT_V4, 9003);
/// An address of the host that spliced connections alone come from.
const SPLICED_SOURCE: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 9);
/// Where the backend is that works.
const BACKEND: &str = "127.0.0.1:9001";
/// Connections of one client to the limited service.
const CLIENT_CONNECTIONS_MAX: usize = 4;

/// How far back the dashboard's rates look here: the whole test.
const RATE_INTERVAL: &str = "2m";

/// How long anything that should happen at once may take: the machine may be busy.
const LIMIT: Duration = Duration::from_secs(60);

/// Panels that show zeroes here. Every other has to show something.
const QUIET: [&str; 7] = [
    "Proven clients without a socket",
    "Pipes",
    "Pipes thrown away",
    "Buffers at their bound",
    "Errors of accept",
    "Defects",
    "Maps",
];

fn configuration() -> String {
    format!(
        r#"
[proxy]
workers = 2

[[service]]
address = "{HOST_V4}:{HOST_PORT}"
name = "host"

[[service]]
address = "{HOST_V4}:{CHECKED_PORT}"
name = "checked"
mode = "proxy"
connections_max = 500
connections_per_client_max = 400
[service.check]
type = "http"
interval = "200ms"
timeout = "200ms"
[[service.backend]]
address = "{BACKEND}"
name = "works"
[[service.backend]]
address = "127.0.0.1:9002"
name = "dead"

[[service]]
address = "{HOST_V4}:{UNCHECKED_PORT}"
name = "unchecked"
mode = "proxy"
[service.ejection]
failures = 3
duration = "2s"
[[service.backend]]
address = "{BACKEND}"
name = "works"
[[service.backend]]
address = "127.0.0.1:9002"
name = "refuses"

[[service]]
address = "{HOST_V4}:{LIMITED_PORT}"
name = "limited"
mode = "proxy"
idle_timeout = "1s"
connections_per_client_max = {CLIENT_CONNECTIONS_MAX}
[[service.backend]]
address = "{BACKEND}"
name = "works"

[[service]]
address = "{HOST_V4}:{SILENT_PORT}"
name = "silent"
mode = "proxy"
connect_timeout = "5m"
[[service.backend]]
address = "{SILENT_BACKEND}"
name = "silent"

[[service]]
address = "{HOST_V4}:{SPLICED_PORT}"
name = "spliced"
mode = "splice"
nat = "full"
nat_pool = ["{SPLICED_SOURCE}"]
time_wait_timeout = "1s"
[[service.backend]]
address = "{backend}"
name = "behind"
"#,
        backend = SocketAddr::from(SPLICED_BACKEND),
    )
}

fn service(port: u16) -> SocketAddr {
    (HOST_V4, port).into()
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not after {LIMIT:?}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Steady requests until they are stopped.
fn load(lab: &Lab, port: u16) -> Load {
    let spec = LoadSpec {
        target: service(port),
        rate: 20,
        count: u32::MAX,
        timeout: LIMIT,
    };
    Load::start(&lab.client, spec).unwrap()
}

fn flood(lab: &Lab, kind: FloodKind) {
    const RATE: u64 = 20_000;
    let spec = FloodSpec {
        target: service(HOST_PORT),
        kind,
        rate: Some(RATE),
        seed: 11,
        count_max: 4 * RATE,
        duration_max: Duration::from_secs(4),
    };
    let sent = lab.flood(spec).unwrap().join().unwrap();
    assert!(sent.frames > 0, "there was a flood");
}

/// Opens connections and says nothing on them.
fn open(netns: &Netns, port: u16, count: usize) -> Vec<io::Result<TcpStream>> {
    let connect = |_| TcpStream::connect_timeout(&service(port), LIMIT);
    netns.run(|| Ok((0..count).map(connect).collect())).unwrap()
}

/// Waits until levee has reset them all, some of which perhaps at once.
fn assert_reset(streams: Vec<io::Result<TcpStream>>) {
    let until_the_end = |mut stream: TcpStream| {
        stream.set_read_timeout(Some(LIMIT))?;
        stream.read(&mut [0])
    };
    for stream in streams {
        let ended = stream.and_then(until_the_end).unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::ConnectionReset, "{ended}");
    }
}

fn dashboard_problems(prometheus: &Prometheus) -> Vec<String> {
    let mut problems = Vec::new();
    let mut shown = Vec::new();
    let dashboard = dashboard::load();
    for query in dashboard::queries(&dashboard) {
        let panel = &query.panel;
        match prometheus.values(&dashboard::substituted(&query.expression, RATE_INTERVAL)) {
            Err(error) => problems.push(format!("{panel}: {}: {error:#}", query.expression)),
            Ok(values) if values.is_empty() => {
                problems.push(format!("{panel}: empty: {}", query.expression));
            }
            Ok(values) if values.iter().any(|&value| value != 0.0) => shown.push(query.panel),
            Ok(_) => {}
        }
    }
    for query in dashboard::queries(&dashboard) {
        let quiet = QUIET.contains(&&*query.panel) || shown.contains(&query.panel);
        if !quiet {
            problems.push(format!("{}: nothing but zeroes", query.panel));
            shown.push(query.panel);
        }
    }
    for (name, metric, label) in dashboard::variables(&dashboard) {
        let values = format!(
            "count by ({label}) ({})",
            dashboard::substituted(&metric, RATE_INTERVAL)
        );
        if prometheus
            .values(&values)
            .map_or(true, |values| values.is_empty())
        {
            problems.push(format!("variable {name}: empty: {values}"));
        }
    }
    problems
}

fn rule_problems(prometheus: &Prometheus) -> Vec<String> {
    let mut problems = Vec::new();
    for rule in prometheus.rules().unwrap() {
        problems.extend(rule.error.map(|error| format!("{}: {error}", rule.name)));
        let (left, right) = expression::sides(&rule.expression);
        for side in [left, right] {
            match prometheus.values(side) {
                Ok(values) if !values.is_empty() => {}
                answer => problems.push(format!("{}: {side}: {answer:?}", rule.name)),
            }
        }
    }
    problems
}

fn state_of(prometheus: &Prometheus, alert: &str) -> String {
    let rules = prometheus.rules().unwrap();
    let rule = rules.into_iter().find(|rule| rule.name == alert);
    rule.unwrap_or_else(|| panic!("no alert {alert}")).state
}

#[test]
fn every_query_has_an_answer() {
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let addresses = [service(HOST_PORT), BACKEND.parse().unwrap()];
    let _server = Nginx::start(&lab.host, &addresses).unwrap();
    let _behind = Nginx::start(&lab.client, &[SPLICED_BACKEND.into()]).unwrap();
    lab.host
        .address(SPLICED_SOURCE.into(), 24, INTERFACE)
        .unwrap();
    let setup = ProxySetup {
        interfaces: &[INTERFACE],
        configuration: &configuration(),
        ..ProxySetup::default()
    };
    let levee = Levee::configured(&lab.host, &setup).unwrap();
    let prometheus = Prometheus::start(&lab.host).unwrap();
    eventually("the first scrapes", || {
        let scrapes = prometheus.values("count_over_time(up{job=\"levee\"}[1m])");
        scrapes.unwrap().iter().any(|&count| count >= 2.0)
    });

    let loads =
        [HOST_PORT, CHECKED_PORT, UNCHECKED_PORT, SPLICED_PORT].map(|port| load(&lab, port));
    flood(&lab, FloodKind::Syn);
    flood(&lab, FloodKind::Ack);
    let idle = open(&lab.client, CHECKED_PORT, 10);
    let waiting = open(&lab.client, SILENT_PORT, 10);
    assert_reset(open(&lab.client, LIMITED_PORT, 2 * CLIENT_CONNECTIONS_MAX));
    levee.signal(Signal::SIGHUP).unwrap();

    // Queries race with scrapes: what happened last is seen a little later.
    let mut problems = Vec::new();
    let deadline = Instant::now() + LIMIT;
    loop {
        problems.clear();
        problems.extend(dashboard_problems(&prometheus));
        problems.extend(rule_problems(&prometheus));
        if problems.is_empty() || Instant::now() > deadline {
            break;
        }
        thread::sleep(Duration::from_secs(1));
    }
    assert!(
        problems.is_empty(),
        "{}\n{}",
        problems.join("\n"),
        levee.log().unwrap()
    );

    assert_ne!(state_of(&prometheus, "LeveeBackendDown"), "inactive");
    for alert in [
        "LeveeDown",
        "LeveeDetached",
        "LeveeReloadFailed",
        "LeveeDefect",
    ] {
        assert_eq!(state_of(&prometheus, alert), "inactive", "{alert}");
    }
    drop((idle, waiting));
    for load in loads {
        let samples = load.stop().unwrap();
        let failed: Vec<_> = samples.iter().filter(|s| s.outcome.is_err()).collect();
        assert!(failed.is_empty() && !samples.is_empty(), "{failed:?}");
    }
}
