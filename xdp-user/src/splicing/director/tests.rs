use std::{cell::Cell, collections::HashSet, net::SocketAddr};

use super::*;
use crate::{
    config::{Config, Service},
    proxy::runtime::ServiceRuntime,
    splicing::{
        directory::{SplicedTarget, nat_pool, timeouts},
        stats::ServiceStats,
    },
};

const ID: u16 = 9;

/// A service with two backends, `a` at 10.0.0.1 and `b` at 10.0.0.2.
fn service(keys: &str) -> Service {
    let text = format!(
        "[[interface]]\nname = \"eth0\"\n[[service]]\naddress = \"192.0.2.1:80\"\nmode = \"splice\"\n\
         {keys}\n[[service.backend]]\nname = \"a\"\naddress = \"10.0.0.1:8080\"\nconnections_max = 5\n\
         [[service.backend]]\nname = \"b\"\naddress = \"10.0.0.2:8080\"\n"
    );
    let config = Config::parse("test", &text).unwrap();
    config.services.into_iter().next().unwrap()
}

fn directory(keys: &str) -> Directory {
    let service = service(keys);
    let runtime = Arc::new(ServiceRuntime::new(&service, None, Tick(0)).unwrap());
    let splice = service.splice().unwrap();
    let backends = runtime.pool.load().backends.clone();
    let targets = (20..).zip(backends);
    let spliced = SplicedService {
        engine: effects::Service {
            id: ID,
            window_scale: 7,
            offer: 0,
            attempts_max: 3,
            connect_timeout_ms: 3000,
            half_open_max: 10,
        },
        addr: service.address.ip().into(),
        port: service.address.port(),
        runtime,
        stats: Arc::new(ServiceStats::default()),
        timeouts: timeouts(splice),
        nat_pool: nat_pool(&splice.nat),
        targets: targets
            .map(|(slot, backend)| SplicedTarget { backend, slot })
            .collect(),
    };
    let key = |n: u8| (Addr::v4([10, 0, 0, n]), 8080);
    Directory::new(vec![Arc::new(spliced)], [(key(1), 20), (key(2), 21)])
}

fn director(keys: &str) -> (Arc<Replaced<Directory>>, Director) {
    let source = Arc::new(Replaced::default());
    source.store(directory(keys));
    let hops = Arc::new(HopTable::default());
    let director = Director::new(Arc::clone(&source), hops, [1, 2], [3, 4]);
    (source, director)
}

fn client(n: u8) -> Addr {
    Addr::v4([198, 51, 100, n])
}

fn slots(director: &mut Director, of_target: impl Fn(u16) -> u32) -> Vec<u16> {
    let mut choose = || director.choose(ID, client(1), 0, |_| 0, &of_target);
    (0..4).filter_map(|_| Some(choose()?.target)).collect()
}

#[test]
fn targets_take_turns_as_far_as_they_may() {
    let (source, mut director) = director("");
    assert_eq!(slots(&mut director, |_| 0), [20, 21, 20, 21]);
    assert_eq!(slots(&mut director, |_| 5), [21; 4], "a is full");
    let tried = director.choose(ID, client(1), 0b10, |_| 0, |_| 0).unwrap();
    assert_eq!((tried.target, tried.position), (20, 0));
    assert_eq!((tried.addr, tried.port), (Addr::v4([10, 0, 0, 1]), 8080));
    assert_eq!(director.choose(ID, client(1), 0b11, |_| 0, |_| 0), None);
    assert_eq!(director.choose(8, client(1), 0, |_| 0, |_| 0), None);
    for target in &source.load().services()[0].targets {
        target.backend.usable.store(false, Relaxed);
    }
    assert_eq!(slots(&mut director, |_| 0), [0; 0]);
}

#[test]
fn whose_turn_it_is_goes_on_with_a_directory_of_the_same_targets() {
    let (source, mut director) = director("");
    let first = director.choose(ID, client(1), 0, |_| 0, |_| 0).unwrap();
    source.store(directory(""));
    director.refresh();
    let second = director.choose(ID, client(1), 0, |_| 0, |_| 0).unwrap();
    assert_ne!(first.target, second.target);
    source.store(Directory::default());
    assert!(
        director.service(Addr::v4([192, 0, 2, 1]), 80).is_some(),
        "not yet"
    );
    director.refresh();
    assert_eq!(director.service(Addr::v4([192, 0, 2, 1]), 80), None);
}

#[test]
fn a_service_may_be_full() {
    let (source, mut director) = director("connections_max = 3");
    let asked = Cell::new(0);
    let mut choose = |connections| {
        let of_service = |id| {
            asked.set(id);
            connections
        };
        director.choose(ID, client(1), 0, of_service, |_| 0)
    };
    assert!(choose(2).is_some());
    assert!(choose(3).is_none());
    assert_eq!(asked.get(), ID);
    assert_eq!(source.load().services()[0].stats.full.get(), 1);
}

fn choice() -> Choice {
    Choice {
        target: 20,
        position: 0,
        addr: Addr::v4([10, 0, 0, 1]),
        port: 8080,
    }
}

#[test]
fn a_client_keeps_its_address_unless_there_is_a_pool() {
    let (_, mut director) = director("");
    let client = (client(1), 5000);
    assert_eq!(director.source(ID, &choice(), client, 0), Some(client));
    assert_eq!(director.source(ID, &choice(), client, 1), None);
    assert_eq!(director.source(8, &choice(), client, 0), None);
}

#[test]
fn a_pool_gives_other_ports_at_each_probe() {
    let (_, mut director) = director("nat = \"full\"\nnat_pool = [\"10.0.0.8\", \"10.0.0.9\"]");
    let mut source = |probe| director.source(ID, &choice(), (client(1), 5000), probe);
    let found: HashSet<_> = (0..u8::MAX).filter_map(&mut source).collect();
    assert_eq!(found.len(), usize::from(u8::MAX));
    assert!(found.iter().all(|(_, port)| *port >= 1024));
    let mut addresses = HashSet::new();
    for n in 0..100 {
        let (addr, _) = director
            .source(ID, &choice(), (client(n), 5000), 0)
            .unwrap();
        addresses.insert(addr);
    }
    let both = [8, 9].map(|n| Addr::v4([10, 0, 0, n]));
    assert_eq!(addresses, HashSet::from(both));
}

#[test]
fn ends_are_counted_and_failures_told() {
    let (source, director) = director("[service.ejection]\nfailures = 1");
    let service = Arc::clone(&source.load().services()[0]);
    director.ended(ID, Outcome::Established, 3);
    director.ended(ID, Outcome::Refused, 3);
    director.notice(ID, Notice::FailedOver);
    director.ended(8, Outcome::Refused, 3);
    let stats = &service.stats;
    assert_eq!(stats.outcomes[Outcome::Established.index()].get(), 1);
    assert_eq!(stats.outcomes[Outcome::Refused.index()].get(), 1);
    assert_eq!(stats.notices[Notice::FailedOver.index()].get(), 1);
    let observed = stats.handshake.snapshot().counts.iter().sum::<u64>();
    assert_eq!(observed, 1, "only what succeeded");
    director.attempted(ID, &choice(), Err(ConnectError::Refused), Tick(1));
    let usable = |n: usize| service.targets[n].backend.usable.load(Relaxed);
    assert_eq!([usable(0), usable(1)], [false, true]);
}

#[test]
fn addresses_lead_to_services_and_targets() {
    let (_, director) = director("");
    let address: SocketAddr = "10.0.0.2:8080".parse().unwrap();
    assert_eq!(director.target(address.ip().into(), 8080), Some(21));
    assert_eq!(director.target(address.ip().into(), 8081), None);
    let known = director.directory().target_address(21);
    assert_eq!(known, Some((address.ip().into(), 8080)));
    assert_eq!(
        director.service(Addr::v4([192, 0, 2, 1]), 80).unwrap().id,
        ID
    );
    assert_eq!(director.hop(21), None);
}
