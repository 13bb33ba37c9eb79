//! Backends that do not answer, refuse, or come and go.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use levee_tests::{
    sockets::{Server, assert_echo, connect, eventually},
    splice_lab::{BACKEND, INTERFACE, OTHER_BACKEND, SpliceLab, with_port},
};

use crate::common::{
    BACKEND_PORT, Stage, addresses, assert_banner, assert_turned_away, backends, banner, service,
    services,
};

/// Both services, each with the backend at these addresses.
fn services_at(settings: &str, targets: &[[SocketAddr; 2]]) -> String {
    let families = addresses().into_iter().enumerate();
    families
        .map(|(family, address)| {
            let targets: Vec<_> = targets.iter().map(|pair| pair[family]).collect();
            service(address, settings, &targets)
        })
        .collect()
}

/// Without waiting for anything: nobody listens there, and the backend's host says so.
#[test]
fn a_refusal_is_passed_on_at_once() {
    let mut stage = Stage::plain();
    stage.leave_listening();
    for address in addresses() {
        let start = Instant::now();
        assert_turned_away(&stage.lab.client, address);
        println!("{address}: {:?}", start.elapsed());
    }
    eventually("both are counted", || {
        stage.metric("levee_handshakes_total", &[("outcome", "refused")]) == 2
    });
}

/// The backend's host says nothing any more: no answer from it, or not even one to the question for
/// its neighbour.
#[test]
fn a_dead_backend_is_told_of_within_the_timeout() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    /// For a busy machine.
    const SLACK: Duration = Duration::from_secs(4);
    for gone in [false, true] {
        let stage = Stage::new("connect_timeout = \"1s\"\nretries = 0");
        let backend = &stage.lab.backend;
        if gone {
            for ip in BACKEND {
                let length = if ip.is_ipv4() { 24 } else { 64 };
                backend
                    .tool(&format!("ip address del {ip}/{length} dev {INTERFACE}"))
                    .unwrap();
            }
            stage.lab.levee.tool("ip neigh flush all").unwrap();
        } else {
            let drop = format!("add rule inet lab in tcp dport {BACKEND_PORT} drop");
            let chain = "add chain inet lab in { type filter hook input priority 0 ; }";
            for rule in ["add table inet lab", chain, &drop] {
                backend.tool(&format!("nft {rule}")).unwrap();
            }
        }
        for address in addresses() {
            let start = Instant::now();
            assert_turned_away(&stage.lab.client, address);
            let elapsed = start.elapsed();
            println!("{address}, gone {gone}: {elapsed:?}");
            assert!(
                elapsed >= TIMEOUT && elapsed < TIMEOUT + SLACK,
                "{elapsed:?}"
            );
        }
        stage.assert_nothing_left();
    }
}

/// The first choice refuses; the second serves, and the client does not notice.
#[test]
fn another_backend_takes_over() {
    let pairs = [backends(), with_port(OTHER_BACKEND, BACKEND_PORT)];
    let configuration = services_at("retries = 1", &pairs);
    let mut stage = Stage::in_lab(SpliceLab::plain().unwrap(), &pairs.concat(), &configuration);
    stage.leave_listening();
    let _servers = stage.serve(banner);
    for address in addresses() {
        for _ in 0..6 {
            let client = connect(&stage.lab.client, address);
            assert_banner(&client);
            assert_echo(&client, "served by the other");
        }
    }
}

/// Checks find that a backend is down, and that it is back.
#[test]
fn a_backend_that_comes_back_is_used_again() {
    let check = "[service.check]\ntype = \"tcp\"\ninterval = \"100ms\"\ntimeout = \"100ms\"";
    let stage = Stage::in_lab(SpliceLab::plain().unwrap(), &[], &services(check));
    let up = |stage: &Stage| stage.metric("levee_backend_up", &[]);
    eventually("both are down", || up(&stage) == 0);
    for address in addresses() {
        assert_turned_away(&stage.lab.client, address);
    }
    let _servers = [BACKEND[0], BACKEND[1]]
        .map(|ip| Server::start(&stage.lab.backend, (ip, BACKEND_PORT).into(), banner));
    eventually("both are up", || up(&stage) == 2);
    for address in addresses() {
        assert_banner(&connect(&stage.lab.client, address));
    }
}
