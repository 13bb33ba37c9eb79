//! Backends that come and go, as clients of a real proxy meet it.

use std::{
    io::{ErrorKind, Read as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{
    common::{Lab, eventually, metric},
    dns_server::{DnsServer, NXDOMAIN, SERVFAIL, Zone},
};

/// Sends its name to every client, and closes.
const SERVER: &str = "
import socket, sys
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print('listening', flush=True)
while True:
    connection, _ = listener.accept()
    try:
        connection.sendall(sys.argv[1].encode())
    except OSError:
        pass
    connection.close()
";

/// A server in a process of its own, which when it ends leaves nobody listening.
struct Server(Child);

impl Server {
    fn start(address: SocketAddr) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", SERVER])
            .args([address.ip().to_string(), address.port().to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        let mut line = [0; 10];
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"listening\n");
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a client of the service is told; `None` when it is reset.
fn ask() -> Option<String> {
    let mut stream = TcpStream::connect("192.0.2.1:80").unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut answer = String::new();
    match stream.read_to_string(&mut answer) {
        Ok(_) => Some(answer),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            None
        }
    }
}

/// A configuration of one service with these keys and tables.
fn config(lab: &Lab, top: &str, service: &str) -> PathBuf {
    lab.write_config(&format!(
        "{top}[[interface]]\nname = \"lv0\"\n[[service]]\nname = \"app\"\naddress = \
         \"192.0.2.1:80\"\nmode = \"proxy\"\n{service}"
    ))
}

fn backend_metric(name: &str, backend: &str, address: &str) -> Option<f64> {
    metric(&format!(
        "{name}{{service=\"app\",backend=\"{backend}\",address=\"{address}\"}}"
    ))
}

fn answers(count: usize) -> Vec<Option<String>> {
    let mut answers: Vec<_> = (0..count).map(|_| ask()).collect();
    answers.sort();
    answers.dedup();
    answers
}

#[test]
fn clients_go_to_backends_that_are_up_and_are_reset_when_none_is() {
    let lab = Lab::new();
    let [a, b] = ["127.0.0.2:8080", "127.0.0.3:8080"];
    let (first, second) = (
        Server::start(a.parse().unwrap()),
        Server::start(b.parse().unwrap()),
    );
    let config = config(
        &lab,
        "",
        &format!(
            "[service.check]\ntype = \"tcp\"\ninterval = \"200ms\"\ntimeout = \"200ms\"\nrise = \
             1\nfall = 2\n[[service.backend]]\naddress = \"{a}\"\n[[service.backend]]\naddress = \
             \"{b}\"\n"
        ),
    );
    let running = lab.start(&mut lab.run_config(&config));
    let up = |address| backend_metric("levee_backend_up", address, address);
    eventually("both are up", || up(a) == Some(1.0) && up(b) == Some(1.0));
    let both = [Some("127.0.0.2".into()), Some("127.0.0.3".into())];
    assert_eq!(answers(10), both);

    drop(second);
    // Before the check has found out, a client is given another backend at once.
    assert_eq!(answers(10), both[..1]);
    eventually("one is down", || up(b) == Some(0.0));
    assert_eq!(answers(10), both[..1]);

    drop(first);
    eventually("the other is down", || up(a) == Some(0.0));
    assert_eq!(answers(3), [None]);
    let no_backend = "levee_connections_closed_total{service=\"app\",reason=\"no_backend\"}";
    eventually("counted", || metric(no_backend) >= Some(3.0));

    let _back = Server::start(b.parse().unwrap());
    eventually("one is back", || up(b) == Some(1.0));
    assert_eq!(answers(10), both[1..]);
    drop(running);
}

#[test]
fn a_backend_whose_connects_fail_is_ejected_without_any_check() {
    let lab = Lab::new();
    let [a, b] = ["127.0.0.2:8080", "127.0.0.3:8080"];
    let _server = Server::start(a.parse().unwrap());
    let config = config(
        &lab,
        "",
        &format!(
            "[service.ejection]\nfailures = 3\nduration = \
             \"1h\"\n[[service.backend]]\naddress = \"{a}\"\n[[service.backend]]\naddress = \
             \"{b}\"\n"
        ),
    );
    let running = lab.start(&mut lab.run_config(&config));
    assert_eq!(answers(20), [Some("127.0.0.2".into())]);
    let of = |name, address| backend_metric(name, address, address);
    assert_eq!(of("levee_backend_up", b), Some(0.0));
    assert_eq!(of("levee_backend_ejections_total", b), Some(1.0));
    assert_eq!(of("levee_backend_ejections_total", a), Some(0.0));
    drop(running);
}

#[test]
fn clients_follow_a_name_to_its_new_address() {
    let lab = Lab::new();
    let dns = DnsServer::new();
    dns.set("app.example", Zone::of(1, &["127.0.0.2"]));
    let addresses = ["127.0.0.2:8080", "127.0.0.3:8080"];
    let _servers = addresses.map(|address| Server::start(address.parse().unwrap()));
    let config = config(
        &lab,
        &format!("[proxy]\ndns_server = \"{}\"\n", dns.address),
        "[[service.backend]]\nname = \"a\"\naddress = \"app.example:8080\"\n",
    );
    let running = lab.start(&mut lab.run_config(&config));
    assert_eq!(answers(3), [Some("127.0.0.2".into())]);
    dns.set("app.example", Zone::of(1, &["127.0.0.3"]));
    eventually("they follow", || ask() == Some("127.0.0.3".into()));
    assert_eq!(answers(3), [Some("127.0.0.3".into())]);
    // Of an address that is gone no metric stays.
    let [gone, now] = addresses;
    assert_eq!(backend_metric("levee_backend_up", "a", gone), None);
    assert_eq!(backend_metric("levee_backend_up", "a", now), Some(1.0));
    let resolved = "levee_backend_resolved{service=\"app\",backend=\"a\"}";
    assert_eq!(metric(resolved), Some(1.0));

    dns.set("app.example", Zone::Codes([SERVFAIL, NXDOMAIN]));
    eventually("it fails", || metric(resolved) == Some(0.0));
    assert_eq!(answers(3), [Some("127.0.0.3".into())]);
    drop(running);
}
