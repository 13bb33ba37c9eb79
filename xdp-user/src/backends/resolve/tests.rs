use super::*;
use crate::backends::{
    dns_server::{DnsServer, NXDOMAIN, SERVFAIL, Zone},
    fixture::service,
};

fn ips(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|ip| ip.parse().unwrap()).collect()
}

fn answer(v4: &[&str], v6: &[&str], valid_s: u64) -> Answer {
    Answer {
        v4: Ok(ips(v4)),
        v6: Ok(ips(v6)),
        valid_for: Duration::from_secs(valid_s),
    }
}

fn listed(known: &Known) -> Vec<String> {
    known.addresses().map(|ip| ip.to_string()).collect()
}

#[test]
fn an_answer_is_valid_for_its_ttl_within_bounds() {
    for (ttl_s, expected_s) in [(0, 5), (4, 5), (77, 77), (3600, 3600), (86_400, 3600)] {
        let outcome = Known::default().update(answer(&["10.0.0.1"], &[], ttl_s));
        assert_eq!(outcome.again_in, Duration::from_secs(expected_s));
        assert_eq!(outcome.error, None);
    }
}

#[test]
fn a_failure_keeps_what_was_known_and_is_tried_again_ever_later() {
    let mut known = Known::default();
    known.update(answer(&["10.0.0.2", "10.0.0.1"], &["2001:db8::1"], 60));
    let all = ["10.0.0.1", "10.0.0.2", "2001:db8::1"];
    assert_eq!(listed(&known), all);
    for (n, expected_s) in [5, 10, 20, 40, 60, 60].into_iter().enumerate() {
        let outcome = known.update(Answer {
            v4: Err("SERVFAIL".into()),
            v6: Err("SERVFAIL".into()),
            valid_for: VALID_MAX,
        });
        let expected = Outcome {
            error: Some("SERVFAIL".into()),
            begins: n == 0,
            again_in: Duration::from_secs(expected_s),
        };
        assert_eq!(outcome, expected);
        assert_eq!(listed(&known), all);
    }
    // A name without any address is most likely a mistake.
    assert!(known.update(answer(&[], &[], 60)).error.is_some());
    assert_eq!(listed(&known), all);
    let outcome = known.update(answer(&["10.0.0.3"], &[], 60));
    assert_eq!(outcome.again_in, Duration::from_secs(60));
    assert_eq!(listed(&known), ["10.0.0.3"]);
}

#[test]
fn one_family_that_fails_keeps_its_addresses() {
    let mut known = Known::default();
    known.update(answer(&["10.0.0.1"], &["2001:db8::1"], 60));
    let outcome = known.update(Answer {
        v4: Ok(ips(&["10.0.0.9"])),
        v6: Err("timed out".into()),
        valid_for: Duration::from_secs(60),
    });
    assert_eq!(outcome.error, None);
    assert_eq!(outcome.again_in, RETRY_MIN);
    assert_eq!(listed(&known), ["10.0.0.9", "2001:db8::1"]);
}

#[test]
fn every_backend_gets_an_address_before_any_gets_a_second() {
    let service = service("", &["a.example:80", "10.9.9.9:80", "b.example:443"]);
    let config = service.proxy().unwrap();
    let many = (1..=200).map(|n| IpAddr::from([10, 0, 0, n]));
    let known = [
        Known::from_addresses(many),
        Known::default(),
        Known::from_addresses(ips(&["10.0.1.2", "10.0.1.1"])),
    ];
    let Composed {
        chosen, left_out, ..
    } = compose(config, service.address, &HashSet::new(), &known);
    assert_eq!(chosen.len(), BACKENDS_MAX);
    assert_eq!(left_out, 203 - BACKENDS_MAX);
    let of = |position| chosen.iter().filter(move |(p, _)| *p == position);
    assert_eq!(of(0).count(), BACKENDS_MAX - 3);
    assert_eq!(of(1).count(), 1);
    let last: Vec<_> = of(2).map(|(_, address)| address.to_string()).collect();
    assert_eq!(last, ["10.0.1.1:443", "10.0.1.2:443"]);
}

#[test]
fn no_service_is_a_backend_of_its_own_or_of_another() {
    let service = service("", &["10.0.0.1:80", "a.example:443"]);
    let known = ips(&["192.0.2.10", "192.0.2.11", "192.0.2.12"]);
    let known = [Known::default(), Known::from_addresses(known)];
    let other = "192.0.2.12:443".parse().unwrap();
    let elsewhere = "192.0.2.11:80".parse().unwrap();
    let served = HashSet::from([service.address, other, elsewhere]);
    let composed = compose(service.proxy().unwrap(), service.address, &served, &known);
    let expected = Composed {
        chosen: vec![
            (0, "10.0.0.1:80".parse().unwrap()),
            (1, "192.0.2.11:443".parse().unwrap()),
        ],
        left_out: 0,
        loops: vec![(1, service.address), (1, other)],
    };
    assert_eq!(composed, expected);
}

#[tokio::test]
async fn a_server_is_asked_for_both_families() {
    let server = DnsServer::new();
    server.set(
        "app.example",
        Zone::of(
            300,
            &[
                "10.0.0.2",
                "2001:db8::5",
                "10.0.0.1",
                "0.0.0.0",
                "255.255.255.255",
                "::ffff:10.0.0.2",
            ],
        ),
    );
    server.set("half.example", Zone::Codes([SERVFAIL, 0]));
    server.set("gone.example", Zone::Codes([NXDOMAIN; 2]));
    let resolver = Resolver::new(Some(server.address));
    let found = resolver.look_up("app.example").await;
    assert_eq!(found.v4, Ok(ips(&["10.0.0.1", "10.0.0.2"])));
    assert_eq!(found.v6, Ok(ips(&["2001:db8::5"])));
    let valid_s = found.valid_for.as_secs_f64();
    assert!((200.0..=300.0).contains(&valid_s), "{valid_s}");
    // Nothing is cached.
    server.set("app.example", Zone::of(300, &["10.0.0.3"]));
    let found = resolver.look_up("app.example").await;
    assert_eq!((found.v4, found.v6), (Ok(ips(&["10.0.0.3"])), Ok(ips(&[]))));
    let found = resolver.look_up("half.example").await;
    assert!(found.v4.is_err());
    assert_eq!(found.v6, Ok(ips(&[])));
    let found = resolver.look_up("gone.example").await;
    assert_eq!((found.v4, found.v6), (Ok(ips(&[])), Ok(ips(&[]))));
}

#[tokio::test]
async fn what_the_hosts_file_has_is_not_asked_for() {
    let server = DnsServer::new();
    server.set("app.example", Zone::of(60, &["10.0.0.9", "2001:db8::9"]));
    server.set("other.example", Zone::of(60, &["10.0.0.8"]));
    let mut hosts = Hosts::default();
    let file = "10.0.0.1 app.example\n10.0.0.2 app app.example # not alone\n";
    hosts.read_hosts_conf(file.as_bytes()).unwrap();
    let resolver = Resolver::with_hosts(Some(server.address), hosts);
    let found = resolver.look_up("app.example").await;
    assert_eq!(found.v4, Ok(ips(&["10.0.0.1", "10.0.0.2"])));
    assert_eq!(found.v6, Ok(ips(&[])));
    let found = resolver.look_up("other.example").await;
    assert_eq!(found.v4, Ok(ips(&["10.0.0.8"])));
}
