//! The lab itself: it works without levee, and leaves nothing behind.
use std::{
    net::SocketAddr,
    panic::catch_unwind,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use aya::programs::XdpMode;
use levee_tests::{
    abi::tcp_flag,
    flood::{FloodKind, FloodSpec, Sent},
    http,
    link::{End, Receive, ifindex, veth},
    netns::Netns,
    object::Object,
    process::Process,
    server::Nginx,
    switch::{Direction, LossRule, Payload},
    topology::{INTERFACE, Lab, LabOptions, host_addresses},
    vlan::{QINQ, Tag, VLAN},
};

const LIMIT: Duration = Duration::from_secs(10);

/// Waits for what the kernel does in its own time.
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not after {LIMIT:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn assert_page(lab: &Lab, address: SocketAddr) {
    let (status, body) = http::get_in(&lab.client, address, "/", LIMIT).unwrap();
    assert_eq!((status, body.as_str()), (200, "levee lab\n"), "{address}");
}

fn plain_lab() -> Lab {
    Lab::new(&LabOptions::default()).unwrap()
}

#[test]
fn a_panic_leaves_neither_namespace_nor_process() {
    let outside = Netns::new("outside").unwrap();
    let result = catch_unwind(|| {
        let inside = Netns::new("inside").unwrap();
        let end = |netns, name, mac| End {
            netns,
            name,
            mac,
            receive: Receive::InSender,
        };
        let outer = end(&outside, "out", "02:00:00:00:00:01");
        veth(outer, end(&inside, "in", "02:00:00:00:00:02"), 1500).unwrap();
        ifindex(&outside, "out").unwrap();
        let mut sleep = inside.command("sleep");
        sleep.arg("60");
        let sleep = Process::spawn("sleep", sleep).unwrap();
        std::panic::panic_any(sleep.id());
    });
    let id = *result.unwrap_err().downcast::<u32>().unwrap();
    assert!(
        !Path::new(&format!("/proc/{id}")).exists(),
        "process {id} is still there"
    );
    // The end outside goes when the namespace with its peer is destroyed.
    eventually("the namespace is gone", || {
        ifindex(&outside, "out").is_err()
    });
}

#[test]
fn two_labs_at_once_do_not_meet() {
    let labs = [plain_lab(), plain_lab()];
    let servers = labs
        .each_ref()
        .map(|lab| Nginx::start(&lab.host, &host_addresses(80)).unwrap());
    for (lab, text) in labs.iter().zip(["first", "second"]) {
        let index = if text == "first" { 0 } else { 1 };
        std::fs::write(servers[index].root().join("name"), text).unwrap();
        for address in host_addresses(80) {
            assert_page(lab, address);
            let (_, body) = http::get_in(&lab.client, address, "/name", LIMIT).unwrap();
            assert_eq!(body, text);
        }
    }
}

fn small_flood(lab: &Lab, target: SocketAddr, kind: FloodKind, count: u64) -> Sent {
    let spec = FloodSpec {
        target,
        kind,
        rate: Some(10_000),
        seed: 1,
        count_max: count,
        duration_max: LIMIT,
    };
    lab.flood(spec).unwrap().join().unwrap()
}

#[test]
fn a_flood_keeps_to_its_count_and_every_frame_arrives() {
    const COUNT: u64 = 5_000;
    let mut lab = plain_lab();
    let mut bounce = Object::load(&[]).unwrap();
    bounce
        .attach_xdp(&lab.host, INTERFACE, "lab_tx", XdpMode::Driver)
        .unwrap();
    for (round, target) in (1..).zip(host_addresses(80)) {
        let sent = small_flood(&lab, target, FloodKind::Syn, COUNT);
        assert_eq!(sent.frames, COUNT);
        thread::sleep(Duration::from_millis(100));
        let counters = lab.switch.counters().unwrap();
        assert_eq!(counters.syn, round * COUNT, "{target}: {counters:?}");
        assert_eq!(
            counters.other + counters.syn_ack + counters.rst,
            0,
            "{counters:?}"
        );
    }
}

#[test]
fn a_flood_ends_when_its_time_is_up() {
    let lab = plain_lab();
    let spec = FloodSpec {
        target: host_addresses(80)[0],
        kind: FloodKind::Syn,
        rate: None,
        seed: 1,
        count_max: u64::MAX,
        duration_max: Duration::from_millis(200),
    };
    let sent = lab.flood(spec).unwrap().join().unwrap();
    assert!(
        sent.frames > 0 && sent.elapsed >= spec.duration_max,
        "{sent:?}"
    );
}

/// The kernel answers only segments whose checksums are right.
#[test]
fn the_kernel_takes_flood_segments_for_real_ones() {
    const COUNT: u64 = 200;
    let mut lab = plain_lab();
    let _server = Nginx::start(&lab.host, &host_addresses(80)).unwrap();
    for (round, target) in (1..).zip(host_addresses(80)) {
        small_flood(&lab, target, FloodKind::Syn, COUNT);
        small_flood(&lab, target, FloodKind::Ack, COUNT);
        thread::sleep(Duration::from_millis(100));
        let counters = lab.switch.counters().unwrap();
        // Unanswered SYN-ACKs are retransmitted, so there may be more of those.
        assert!(counters.syn_ack >= round * COUNT, "{target}: {counters:?}");
        assert_eq!(counters.rst, round * COUNT, "{target}: {counters:?}");
    }
}

#[test]
fn the_loss_rule_takes_what_it_names() {
    let mut lab = plain_lab();
    let _server = Nginx::start(&lab.host, &host_addresses(80)).unwrap();
    let rule = LossRule {
        flags_mask: tcp_flag::SYN | tcp_flag::ACK,
        flags: tcp_flag::SYN,
        payload: Payload::Empty,
        skip: 1,
        drop: 1,
    };
    lab.switch.set_loss(Direction::ToHost, Some(rule)).unwrap();
    assert_page(&lab, host_addresses(80)[0]);
    assert_eq!(lab.switch.counters().unwrap().lost, 0);
    assert_page(&lab, host_addresses(80)[1]);
    assert_eq!(lab.switch.counters().unwrap().lost, 1);
    assert_page(&lab, host_addresses(80)[0]);
    assert_eq!(lab.switch.counters().unwrap().lost, 1);
}

fn tagged_lab_serves(tags: &[Tag]) {
    let lab = Lab::new(&LabOptions {
        tags: tags.to_vec(),
    })
    .unwrap();
    let _server = Nginx::start(&lab.host, &host_addresses(80)).unwrap();
    for address in host_addresses(80) {
        assert_page(&lab, address);
        lab.client
            .tool(&format!(
                "curl --silent --show-error --fail http://{address}/"
            ))
            .unwrap();
    }
}

#[test]
fn pages_come_over_a_vlan() {
    tagged_lab_serves(&VLAN);
}

#[test]
fn pages_come_over_qinq() {
    tagged_lab_serves(&QINQ);
}

#[test]
fn a_host_without_the_vlan_does_not_answer_on_it() {
    let tagged = Lab::new(&LabOptions {
        tags: VLAN.to_vec(),
    })
    .unwrap();
    let _server = Nginx::start(&tagged.host, &host_addresses(80)).unwrap();
    tagged
        .host
        .tool(&format!("tc qdisc del dev {INTERFACE} clsact"))
        .unwrap();
    let short = Duration::from_secs(1);
    assert!(http::get_in(&tagged.client, host_addresses(80)[0], "/", short).is_err());
}

#[test]
fn a_failing_tool_says_what_it_said() {
    let netns = Netns::new("errors").unwrap();
    let error = netns
        .tool("ip link set nowhere up")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("ip link set nowhere up") && error.contains("nowhere"),
        "{error}"
    );
    let error = netns.sysctl("net.ipv4.no_such_thing", "1").unwrap_err();
    assert!(
        format!("{error:#}").contains("net.ipv4.no_such_thing"),
        "{error:#}"
    );
}
