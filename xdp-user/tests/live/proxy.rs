//! Services in proxy mode on a real kernel: how they come, show, change and go. Clients here
//! connect over loopback, past the XDP program.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    thread,
    time::Duration,
};

use crate::{
    common::{Lab, Levee, eventually, get, levee, metric, refusal},
    promtool,
};
use levee::ctl::{self, Request};
use nix::sys::signal::Signal;

const SERVICE: &str = "192.0.2.1:80";

/// A backend that returns what it gets, until its client has closed.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test's process.
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut writer = stream.try_clone().unwrap();
                // However it ends, the client's side tells.
                let _ = std::io::copy(&mut stream, &mut writer);
            });
        }
    });
    address
}

/// A configuration with one service, whose table is followed by `rest`.
fn write(lab: &Lab, top: &str, backend: SocketAddr, rest: &str) -> PathBuf {
    lab.write_config(&format!(
        "{top}[[interface]]\nname = \"lv0\"\n[[service]]\nname = \"app\"\naddress = \
         \"{SERVICE}\"\nmode = \"proxy\"\n{rest}[[service.backend]]\nname = \"echo\"\naddress = \
         \"{backend}\"\n"
    ))
}

fn connect() -> TcpStream {
    let stream = TcpStream::connect(SERVICE).unwrap();
    let timeout = Some(Duration::from_secs(30));
    stream.set_read_timeout(timeout).unwrap();
    stream
}

/// Says something and hears it back.
fn talk(stream: &mut TcpStream) {
    stream.write_all(b"hello").unwrap();
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
}

/// Waits until the other side has reset the connection.
fn is_reset(stream: &mut TcpStream) -> bool {
    let error = stream.read(&mut [0]).unwrap_err();
    error.kind() == ErrorKind::ConnectionReset
}

/// What a command that must succeed prints.
fn output(lab: &Lab, arguments: &str) -> String {
    let mut command = levee(arguments);
    let output = command
        .arg("--socket")
        .arg(lab.path("levee.sock"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Ends by itself, in good order.
fn ends(running: Levee) {
    assert_eq!(running.wait().code(), Some(0));
}

#[test]
fn connections_are_shown_and_ended() {
    let lab = Lab::new();
    let config = write(&lab, "", echo(), "");
    let running = lab.start(&mut lab.run_config(&config));
    let mut clients: Vec<_> = (0..3).map(|_| connect()).collect();
    clients.iter_mut().for_each(talk);

    let text = output(&lab, "connections --service app --client 192.0.2.0/24");
    assert_eq!(text.lines().count(), 4, "{text}");
    assert!(text.contains("ESTABLISHED"), "{text}");
    let text = output(&lab, "connections --limit 1");
    assert!(
        text.ends_with("1 of 3 connections; --limit shows more\n"),
        "{text}"
    );
    assert_eq!(
        output(&lab, "connections --idle 1h"),
        "No such connections.\n"
    );
    let json = output(&lab, "connections --json");
    let listed: ctl::Connections = serde_json::from_str(&json).unwrap();
    assert_eq!((listed.rows.len(), listed.matched), (3, 3));

    let port = clients[0].local_addr().unwrap();
    let row = listed.rows.iter().find(|row| row.client == port).unwrap();
    assert_eq!((row.bytes_from_client, row.bytes_from_backend), (5, 5));
    assert_eq!(
        output(&lab, &format!("kill {}", row.id)),
        "ended 1 connection(s)\n"
    );
    assert!(is_reset(&mut clients[0]));
    talk(&mut clients[1]);
    let text = refusal(levee("kill --socket").arg(lab.path("levee.sock")));
    assert!(text.contains("found no condition"), "{text}");
    assert_eq!(output(&lab, "kill --all"), "ended 2 connection(s)\n");
    assert!(is_reset(&mut clients[1]) && is_reset(&mut clients[2]));
    let killed = "levee_connections_closed_total{service=\"app\",reason=\"killed\"}";
    eventually("counted", || metric(killed) == Some(3.0));
    drop(running);
}

#[test]
fn status_and_metrics_tell_of_the_proxy() {
    let lab = Lab::new();
    let backend = echo();
    let config = write(&lab, "", backend, "");
    let running = lab.start(&mut lab.run_config(&config));
    let mut client = connect();
    talk(&mut client);
    let established = "levee_connections{service=\"app\",leg=\"client\",state=\"ESTABLISHED\"}";
    assert_eq!(metric(established), Some(1.0));
    let up = format!("levee_backend_up{{service=\"app\",backend=\"echo\",address=\"{backend}\"}}");
    assert_eq!(metric(&up), Some(1.0));
    promtool::check(&get("/metrics").1);

    let proxy = running.status().proxy.unwrap();
    assert_eq!((proxy.connections, proxy.draining), (1, false));
    let service = &proxy.services[0];
    assert_eq!((service.active, service.accepted), (1, 1));
    assert_eq!(service.backends[0].active, 1);
    assert_eq!(service.backends[0].state, "up");
    let text = output(&lab, "status");
    assert!(text.contains("Proxy: 1 of at most"), "{text}");
    assert!(text.contains(&backend.to_string()), "{text}");

    drop(client);
    let finished = "levee_connections_closed_total{service=\"app\",reason=\"finished\"}";
    eventually("closed", || metric(finished) == Some(1.0));
    assert_eq!(metric(established), Some(0.0));
    assert_eq!(running.end(Signal::SIGTERM).code(), Some(0));
}

#[test]
fn services_come_change_and_go_by_reload() {
    let lab = Lab::new();
    let host = "[[interface]]\nname = \"lv0\"\n[[service]]\naddress = \"192.0.2.1:81\"\n";
    let config = lab.write_config(host);
    let running = lab.start(&mut lab.run_config(&config));
    assert_eq!(running.status().proxy, None);
    assert!(TcpStream::connect(SERVICE).is_err());

    let first = echo();
    write(&lab, "", first, "");
    output(&lab, "reload");
    let mut old = connect();
    talk(&mut old);

    // A connection keeps its backend, a new one gets the new.
    let second = echo();
    write(&lab, "", second, "");
    output(&lab, "reload");
    let mut new = connect();
    talk(&mut new);
    talk(&mut old);
    let json = output(&lab, "connections --json");
    let listed: ctl::Connections = serde_json::from_str(&json).unwrap();
    let mut backends: Vec<_> = listed
        .rows
        .iter()
        .filter_map(|r| r.backend_address)
        .collect();
    backends.sort_unstable();
    let mut expected = [first, second];
    expected.sort_unstable();
    assert_eq!(backends, expected);

    write(&lab, "[proxy]\nworkers = 1\n", second, "");
    let text = output(&lab, "reload");
    assert!(text.contains("needs a restart of levee: proxy"), "{text}");

    lab.write_config(host);
    output(&lab, "reload");
    eventually("closed to new clients", || {
        TcpStream::connect(SERVICE).is_err()
    });
    talk(&mut old);
    talk(&mut new);
}

#[test]
fn a_backend_that_is_not_found_does_not_keep_levee_from_starting() {
    let lab = Lab::new();
    // Nobody answers there.
    let top = "[proxy]\ndns_server = \"127.0.0.1:5353\"\n";
    let config = lab.write_config(&format!(
        "{top}[[interface]]\nname = \"lv0\"\n[[service]]\nname = \"app\"\naddress = \
         \"{SERVICE}\"\nmode = \"proxy\"\n[[service.backend]]\naddress = \"b.internal:80\"\n"
    ));
    let running = lab.start(&mut lab.run_config(&config));
    let said = "backend b.internal:80 is not found yet";
    assert!(running.log().contains(said), "{}", running.log());
    assert!(output(&lab, "status").contains("UNRESOLVED"));
    let resolved = "levee_backend_resolved{service=\"app\",backend=\"b.internal:80\"}";
    assert_eq!(metric(resolved), Some(0.0));
    assert!(is_reset(&mut connect()));
    let closed = "levee_connections_closed_total{service=\"app\",reason=\"no_backend\"}";
    eventually("counted", || metric(closed) == Some(1.0));
}

/// What `ss` says of the timers of the service's sockets.
fn timers() -> String {
    let output = Command::new("ss")
        .args(["-Htno", "state", "established", "src", SERVICE])
        .output()
        .expect("ss, of the Debian package iproute2, is installed");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn new_clients_get_the_keepalive_probes_of_a_reload() {
    let lab = Lab::new();
    let backend = echo();
    let config = write(&lab, "", backend, "client_keepalive = \"heartbeat\"\n");
    let _running = lab.start(&mut lab.run_config(&config));
    let mut client = connect();
    talk(&mut client);
    assert!(timers().contains("sec,0)"), "{}", timers());
    for (probes, expected) in [("classic", "min,0)"), ("off", "")] {
        drop(client);
        eventually("closed", || timers().is_empty());
        write(
            &lab,
            "",
            backend,
            &format!("client_keepalive = \"{probes}\"\n"),
        );
        output(&lab, "reload");
        client = connect();
        talk(&mut client);
        let timers = timers();
        assert!(timers.contains(expected), "{timers}");
        assert_eq!(
            timers.contains("keepalive"),
            !expected.is_empty(),
            "{timers}"
        );
    }
}

#[test]
fn a_port_in_use_is_refused() {
    let lab = Lab::new();
    let _server = TcpListener::bind(SERVICE).unwrap();
    let config = write(&lab, "", echo(), "");
    let text = refusal(&mut lab.run_config(&config));
    assert!(
        text.contains("app cannot listen at 192.0.2.1:80: another program"),
        "{text}"
    );
    // At a reload, what runs goes on.
    let host = "[[interface]]\nname = \"lv0\"\n[[service]]\naddress = \"192.0.2.1:81\"\n";
    let config = lab.write_config(host);
    let running = lab.start(&mut lab.run_config(&config));
    write(&lab, "", echo(), "");
    let text = refusal(levee("reload --socket").arg(lab.path("levee.sock")));
    assert!(
        text.contains("app cannot listen at 192.0.2.1:80: another program"),
        "{text}"
    );
    assert_eq!(running.status().services[0].address.port(), 81);
}

#[test]
fn a_stop_waits_for_connections_to_end() {
    let lab = Lab::new();
    let config = write(&lab, "", echo(), "");
    let running = lab.start(&mut lab.run_config(&config));
    let mut client = connect();
    talk(&mut client);
    running.signal(Signal::SIGTERM);
    eventually("closed to new clients", || {
        TcpStream::connect(SERVICE).is_err()
    });
    let status = running.status();
    assert!(!status.active);
    assert!(status.proxy.is_some_and(|proxy| proxy.draining));
    assert!(output(&lab, "status").contains("STOPPING"));
    assert_eq!(metric("levee_draining"), Some(1.0));
    let error = ctl::request(&lab.path("levee.sock"), Request::Reload).unwrap_err();
    assert_eq!(error.to_string(), "levee is stopping");
    assert!(get("/-/ready").0.contains("503"));
    talk(&mut client);
    drop(client);
    ends(running);
}

#[test]
fn a_stop_has_an_end() {
    let lab = Lab::new();
    let top = "[proxy]\ndrain_timeout = \"500ms\"\n";
    let config = write(&lab, top, echo(), "");
    let running = lab.start(&mut lab.run_config(&config));
    let mut client = connect();
    talk(&mut client);
    running.signal(Signal::SIGTERM);
    assert!(is_reset(&mut client));
    eventually("said", || {
        running
            .log()
            .contains("1 connection(s) of the proxy had not ended")
    });
    ends(running);
}

#[test]
fn a_second_signal_ends_at_once() {
    let lab = Lab::new();
    let top = "[proxy]\ndrain_timeout = \"1h\"\n";
    let config = write(&lab, top, echo(), "");
    let running = lab.start(&mut lab.run_config(&config));
    let mut client = connect();
    talk(&mut client);
    running.signal(Signal::SIGTERM);
    eventually("draining", || {
        running.log().contains("the proxy has 1 connection(s) left")
    });
    running.signal(Signal::SIGTERM);
    assert!(is_reset(&mut client));
    ends(running);
}
