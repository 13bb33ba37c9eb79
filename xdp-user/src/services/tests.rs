use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use proptest::prelude::*;
use xdp_common::{
    abi::{BUCKETS, OFFER_SACK, OFFER_TIMESTAMPS, OFFER_WINDOW_SCALE, SERVICES_MAX, ServiceBucket},
    service::{bucket, find},
    splice::flow::TARGETS_MAX,
};

use super::*;
use crate::config::{HostOptions, Mode};

const OFFER: KernelOffer = KernelOffer {
    flags: OFFER_TIMESTAMPS | OFFER_SACK | OFFER_WINDOW_SCALE,
    window_scale: 7,
    receive_space: 65_536,
    mss_v4: 1460,
    mss_v6: 1440,
};

fn service(address: SocketAddr) -> Service {
    Service {
        name: address.to_string(),
        address,
        mss: None,
        window_scale: None,
        window: None,
        mode: Mode::Host(HostOptions::default()),
    }
}

/// The map as the data path sees it, and the control values it reads.
struct Map {
    buckets: Vec<ServiceBucket>,
    seed: u64,
    generation: u32,
}

impl Map {
    fn new() -> Self {
        Self {
            buckets: vec![ServiceBucket::default(); 2 * BUCKETS as usize],
            seed: 0,
            generation: 0,
        }
    }

    fn apply(&mut self, table: &mut Table, entries: &[ServiceEntry]) -> usize {
        let plan = table.plan(entries).unwrap();
        for write in &plan.writes {
            let range = plan.generation * BUCKETS..(plan.generation + 1) * BUCKETS;
            assert!(range.contains(&write.index), "the live one is not touched");
            self.buckets[write.index as usize] = write.bucket;
            table.written(write);
        }
        table.flipped(&plan);
        self.seed = plan.seed;
        self.generation = plan.generation;
        plan.writes.len()
    }

    fn find(&self, ip: IpAddr, port: u16) -> Option<&ServiceEntry> {
        let index = self.generation * BUCKETS + bucket(self.seed, ip.into(), port);
        find(&self.buckets[index as usize], ip.into(), port)
    }

    fn len(&self) -> usize {
        let base = (self.generation * BUCKETS) as usize;
        let live = &self.buckets[base..base + BUCKETS as usize];
        let entries = live.iter().flat_map(|bucket| bucket.entries);
        entries.filter(|entry| entry.kind != 0).count()
    }
}

fn entries_of(services: &[Service]) -> Vec<ServiceEntry> {
    let ids: Vec<u16> = (0..services.len() as u16).collect();
    entries(services, &ids, &OFFER, &Spliced::default())
}

fn assert_holds_exactly(map: &Map, services: &[Service]) {
    for (id, service) in services.iter().enumerate() {
        let (ip, port) = (service.address.ip(), service.address.port());
        let found = map.find(ip, port).unwrap();
        assert_eq!((found.kind, usize::from(found.id)), (KIND_SERVICE, id));
        assert_eq!(map.find(ip, 0).unwrap().kind, KIND_ADDRESS);
    }
    let addresses: HashSet<_> = services.iter().map(|s| s.address.ip()).collect();
    assert_eq!(map.len(), services.len() + addresses.len());
}

#[test]
fn an_entry_takes_the_kernels_offer_unless_overridden() {
    let mut v4 = service("192.0.2.1:443".parse().unwrap());
    let v6 = service("[2001:db8::1]:443".parse().unwrap());
    let made = entries(&[v4.clone(), v6], &[5, 6], &OFFER, &Spliced::default());
    assert_eq!(made.len(), 4);
    assert_eq!(
        (made[0].mss, made[0].window_scale, made[0].id),
        (1460, 7, 5)
    );
    assert_eq!(made[0].window, 65_160, "45 segments of 1448 bytes");
    assert_eq!(made[0].offer, OFFER.flags);
    assert_eq!((made[1].mss, made[1].id), (1440, 6));
    v4.mss = Some(1000);
    v4.window = Some(4000);
    v4.window_scale = Some(0);
    let made = entries(&[v4], &[0], &OFFER, &Spliced::default());
    assert_eq!(
        (made[0].mss, made[0].window, made[0].window_scale),
        (1000, 4000, 0)
    );
}

#[test]
fn services_on_one_address_share_its_entry() {
    let services: Vec<_> = (1..=10)
        .map(|port| service(SocketAddr::from(([192, 0, 2, 1], port))))
        .collect();
    assert_eq!(entries_of(&services).len(), 11);
    let mut map = Map::new();
    map.apply(&mut Table::default(), &entries_of(&services));
    assert_holds_exactly(&map, &services);
    assert!(map.find(Ipv4Addr::new(192, 0, 2, 1).into(), 11).is_none());
    assert!(map.find(Ipv4Addr::new(192, 0, 2, 2).into(), 0).is_none());
}

/// As many services as may be configured, on as many addresses, in the patterns operators have:
/// consecutive IPv4 and IPv6 addresses, and scattered ones.
#[test]
fn the_largest_tables_fit() {
    let spread = |n: u32| n.wrapping_mul(0x9e37_79b1);
    let patterns: [&dyn Fn(u32) -> SocketAddr; 4] = [
        &|n| (Ipv4Addr::from(0x0a00_0000 + n), 443).into(),
        &|n| (Ipv4Addr::from(spread(n) | 1), 443).into(),
        &|n| {
            (
                Ipv6Addr::from((0x2001_0db8_u128 << 96) + u128::from(n)),
                443,
            )
                .into()
        },
        &|n| (Ipv4Addr::from(0x0a00_0000 + n * 256), 1 + n as u16).into(),
    ];
    for address in patterns {
        let services: Vec<_> = (0..SERVICES_MAX).map(|n| service(address(n))).collect();
        let mut map = Map::new();
        let mut table = Table::default();
        map.apply(&mut table, &entries_of(&services));
        assert_holds_exactly(&map, &services);
        let ids: Vec<u16> = (0..SERVICES_MAX as u16).collect();
        let targets = (0..TARGETS_MAX).map(|n| {
            let (ip, port) = (address(n).ip(), 10_000);
            (SocketAddr::new(ip, port), n as u16)
        });
        let spliced = Spliced {
            targets: targets.collect(),
            ..Spliced::default()
        };
        map.apply(&mut table, &entries(&services, &ids, &OFFER, &spliced));
        for (address, slot) in &spliced.targets {
            let found = map.find(address.ip(), address.port()).unwrap();
            assert_eq!((found.kind, found.id), (KIND_TARGET, *slot));
        }
    }
}

#[test]
fn a_small_change_is_few_writes() {
    let all: Vec<_> = (1..=1000)
        .map(|port| service(SocketAddr::from(([192, 0, 2, 1], port))))
        .collect();
    let mut map = Map::new();
    let mut table = Table::default();
    map.apply(&mut table, &entries_of(&all));
    map.apply(&mut table, &entries_of(&all));
    assert_eq!(map.apply(&mut table, &entries_of(&all)), 0);
    assert!(map.apply(&mut table, &entries_of(&all[..999])) <= 1);
    assert_holds_exactly(&map, &all[..999]);
}

#[test]
fn what_cannot_fit_is_an_error() {
    let same: Vec<_> = (0..5)
        .map(|_| service("192.0.2.1:1".parse().unwrap()))
        .collect();
    let error = Table::default().plan(&entries_of(&same)).unwrap_err();
    assert_eq!(error, TableFull { entries: 6 });
    assert!(
        error
            .to_string()
            .contains("6 addresses and services do not fit")
    );
}

fn addresses() -> impl Strategy<Value = Vec<Service>> {
    let ip = prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        (0..20_u8).prop_map(|last| IpAddr::from([192, 0, 2, last])),
        any::<[u8; 16]>().prop_map(|bytes| IpAddr::from(bytes).to_canonical()),
    ];
    prop::collection::hash_set((ip, 1..u16::MAX), 1..200)
        .prop_map(|set| set.into_iter().map(|pair| service(pair.into())).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Through a series of reloads, the live table finds its services and nothing else.
    #[test]
    fn every_generation_finds_exactly_its_services(
        reloads in prop::collection::vec(addresses(), 1..5),
        others in addresses(),
    ) {
        let mut map = Map::new();
        let mut table = Table::default();
        for services in &reloads {
            map.apply(&mut table, &entries_of(services));
            assert_holds_exactly(&map, services);
            for other in &others {
                if !services.contains(other) {
                    prop_assert!(map.find(other.address.ip(), other.address.port()).is_none());
                }
            }
        }
    }
}

const SPLICED: &str = r#"
    [[interface]]
    name = "eth0"
    [[service]]
    address = "192.0.2.10:443"
    mode = "splice"
    [[service.backend]]
    address = "10.0.0.11:8443"
"#;

fn spliced(keys: &str, agreed: Option<Agreed>) -> Vec<ServiceEntry> {
    let mode = "mode = \"splice\"\n";
    let text = SPLICED.replace(mode, &format!("{mode}{keys}\n"));
    let services = crate::config::Config::parse("test", &text)
        .unwrap()
        .services;
    let target = services[0].splice().unwrap().common.backends[0]
        .target
        .to_string();
    let spliced = Spliced {
        agreed: agreed
            .map(|agreed| (services[0].address, agreed))
            .into_iter()
            .collect(),
        targets: vec![(target.parse().unwrap(), 77)],
    };
    entries(&services, &[5], &OFFER, &spliced)
}

#[test]
fn a_spliced_service_promises_what_its_backends_do() {
    let agreed = Agreed {
        flags: OFFER_SACK | OFFER_WINDOW_SCALE,
        window_scale: 9,
        mss: 1400,
    };
    let entry = |keys, agreed| {
        let entry = spliced(keys, agreed)[0];
        assert_eq!(
            (entry.kind, entry.mode, entry.id),
            (KIND_SERVICE, MODE_SPLICE, 5)
        );
        assert_eq!(entry.window, 0);
        (entry.offer, entry.window_scale, entry.mss)
    };
    assert_eq!(entry("", None), (0, 0, 536), "nothing is known");
    assert_eq!(entry("", Some(agreed)), (agreed.flags, 9, 1400));
    let large = Agreed {
        mss: 8960,
        ..agreed
    };
    assert_eq!(entry("", Some(large)).2, 1460, "the interfaces' MTU");
    let set = entry("mss = 1300\nwindow_scale = 3", Some(agreed));
    assert_eq!(set, (agreed.flags, 3, 1300));
    let unscaled = Agreed {
        flags: OFFER_SACK,
        ..agreed
    };
    assert_eq!(entry("window_scale = 3", Some(unscaled)).1, 0);
}

#[test]
fn targets_are_found_by_their_address() {
    let (mut map, mut table) = (Map::new(), Table::default());
    map.apply(&mut table, &spliced("", None));
    let target = map.find("10.0.0.11".parse().unwrap(), 8443).unwrap();
    assert_eq!((target.kind, target.id), (KIND_TARGET, 77));
    assert_eq!(
        map.find("10.0.0.11".parse().unwrap(), 0),
        None,
        "no service is there"
    );
}
