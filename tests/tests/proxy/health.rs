//! Backends that are down are not used, found out by checks or by clients' connects.

use std::net::TcpStream;

use levee_tests::{
    proxy_lab::CLIENT,
    server::Nginx,
    sockets::{connect, eventually},
};

use crate::common::{
    Stage, address, assert_turned_away, backend, backends, number, numbered, service,
};

fn client(stage: &Stage) -> TcpStream {
    connect(&stage.lab.client, address())
}

fn up(stage: &Stage) -> u64 {
    stage.metric("levee_backend_up", &[])
}

fn check(kind: &str) -> String {
    format!(
        "[service.check]\ntype = \"{kind}\"\ninterval = \"100ms\"\ntimeout = \"100ms\"\n\
         rise = 2\nfall = 2\n"
    )
}

fn page(stage: &Stage) -> bool {
    let line = format!("curl --silent --fail --max-time 5 http://{}/", address());
    let page = stage.lab.client.tool(&line);
    page.is_ok_and(|page| page == "levee lab\n")
}

#[test]
fn nginx_goes_and_comes_back() {
    let stage = Stage::new(&service(address(), &check("http"), &[backend()]));
    let nginx = Nginx::start(&stage.lab.backend, &[backend()]).unwrap();
    eventually("the backend is up", || up(&stage) == 1);
    assert!(page(&stage));
    drop(nginx);
    eventually("the backend is down", || up(&stage) == 0);
    let before = stage.closed("no_backend");
    assert_turned_away(&stage.lab.client, CLIENT[0], address());
    assert_eq!(stage.closed("no_backend"), before + 1);
    let _nginx = Nginx::start(&stage.lab.backend, &[backend()]).unwrap();
    eventually("the backend is up again", || up(&stage) == 1);
    assert!(page(&stage));
    let checks = |result| stage.metric("levee_backend_checks_total", &[("result", result)]);
    println!("checks: {} ok, {} failed", checks("ok"), checks("failed"));
    stage.assert_nothing_left();
}

#[test]
fn an_unexpected_status_is_down() {
    let settings = check("http") + "path = \"/no-such-page\"\n";
    let stage = Stage::new(&service(address(), &settings, &[backend()]));
    let _nginx = Nginx::start(&stage.lab.backend, &[backend()]).unwrap();
    eventually("the backend is down", || up(&stage) == 0);
    assert_turned_away(&stage.lab.client, CLIENT[0], address());
}

#[test]
fn clients_go_to_the_backend_that_is_up() {
    let stage = Stage::new(&service(address(), &check("tcp"), &backends(2)));
    let [first, second] =
        [0, 1].map(|number| numbered(&stage.lab.backend, backends(2)[usize::from(number)], number));
    eventually("both are up", || up(&stage) == 2);
    drop(first);
    eventually("one is down", || up(&stage) == 1);
    let retries = stage.metric("levee_backend_retries_total", &[]);
    for _ in 0..10 {
        assert_eq!(number(&client(&stage)), 1);
    }
    let tried = stage.metric("levee_backend_retries_total", &[]) - retries;
    assert_eq!(tried, 0, "the one that is down is not tried");
    drop(second);
}

/// Without checks, failed connects of clients tell.
#[test]
fn failed_connects_eject() {
    let settings = "[service.ejection]\nfailures = 3\nduration = \"1h\"\n";
    let stage = Stage::new(&format!(
        "[proxy]\nworkers = 1\n{}",
        service(address(), settings, &backends(2))
    ));
    let _server = numbered(&stage.lab.backend, backends(2)[1], 1);
    for _ in 0..20 {
        assert_eq!(number(&client(&stage)), 1);
    }
    eventually("one is ejected", || {
        stage.metric("levee_backend_ejections_total", &[]) == 1
    });
    let before = stage.metric("levee_backend_retries_total", &[]);
    for _ in 0..10 {
        assert_eq!(number(&client(&stage)), 1);
    }
    assert_eq!(stage.metric("levee_backend_retries_total", &[]), before);
}
