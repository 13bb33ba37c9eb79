//! The lab itself, without levee: routing takes every way that splice mode will.

use std::{net::IpAddr, time::Duration};

use levee_tests::{
    abi::tcp_flag,
    capture::{Capture, out_of_window},
    pattern::both_ways,
    sockets::{Server, accept, assert_echo, connect, echo, listen},
    splice_lab::{
        Arms, BACKEND, CLIENT, INTERFACE, NARROW_MTU, Side, SpliceLab, SpliceOptions, with_port,
    },
    switch::{Direction, LossRule, Payload},
    vlan::VLAN,
};

const PORT: u16 = 9000;

fn serves(options: SpliceOptions) {
    let lab = SpliceLab::new(options).unwrap();
    for address in with_port(BACKEND, PORT) {
        let _server = Server::start(&lab.backend, address, echo);
        let stream = connect(&lab.client, address);
        assert_echo(&stream, "over levee's host");
        let client = stream.local_addr().unwrap().ip();
        assert!(CLIENT.contains(&client), "{client}");
    }
}

#[test]
fn two_arms() {
    serves(SpliceOptions::default());
}

#[test]
fn one_arm() {
    serves(SpliceOptions {
        arms: Arms::One,
        ..SpliceOptions::default()
    });
}

#[test]
fn a_vlan_outside() {
    serves(SpliceOptions {
        tags: VLAN.to_vec(),
        ..SpliceOptions::default()
    });
}

#[test]
fn a_backend_without_a_way_back_does_not_answer() {
    let options = SpliceOptions {
        returns: false,
        ..SpliceOptions::default()
    };
    let lab = SpliceLab::new(options).unwrap();
    for address in with_port(BACKEND, PORT) {
        let _server = Server::start(&lab.backend, address, echo);
        let short = Duration::from_millis(300);
        let stream = lab
            .client
            .run(|| Ok(std::net::TcpStream::connect_timeout(&address, short)?));
        assert!(stream.is_err(), "{address}");
        assert_echo(&connect(&lab.levee, address), "on the link");
    }
}

/// What the kernel has learned of the way to an address.
fn path_mtu(lab: &SpliceLab, ip: IpAddr) -> String {
    lab.client.tool(&format!("ip route get {ip}")).unwrap()
}

#[test]
fn packets_that_a_narrow_hop_refuses_are_told_of() {
    for side in [Side::Outside, Side::Inside] {
        let options = SpliceOptions {
            narrow: Some(side),
            ..SpliceOptions::default()
        };
        let lab = SpliceLab::new(options).unwrap();
        for address in with_port(BACKEND, PORT) {
            let listener = listen(&lab.backend, address);
            let client = connect(&lab.client, address);
            both_ways(&client, &accept(&listener), 20);
            let route = path_mtu(&lab, address.ip());
            assert!(
                route.contains(&format!("mtu {NARROW_MTU}")),
                "{side:?}: {route}"
            );
        }
    }
}

#[test]
fn either_switch_loses_what_it_is_told_to() {
    let mut lab = SpliceLab::plain().unwrap();
    let rule = LossRule {
        flags_mask: tcp_flag::SYN | tcp_flag::ACK,
        flags: tcp_flag::SYN | tcp_flag::ACK,
        payload: Payload::Empty,
        skip: 0,
        drop: 1,
    };
    let [address, _] = with_port(BACKEND, PORT);
    let _server = Server::start(&lab.backend, address, echo);
    // The server's answer: towards levee inside, towards the client outside.
    lab.inner
        .switch()
        .set_loss(Direction::ToHost, Some(rule))
        .unwrap();
    assert_echo(&connect(&lab.client, address), "after the second SYN-ACK");
    assert_eq!(lab.inner.switch().counters().unwrap().lost, 1);
    lab.outer
        .switch()
        .set_loss(Direction::ToClient, Some(rule))
        .unwrap();
    assert_echo(&connect(&lab.client, address), "after the second SYN-ACK");
    assert_eq!(lab.outer.switch().counters().unwrap().lost_to_client, 1);
}

#[test]
fn frames_are_lost_by_chance() {
    let mut lab = SpliceLab::plain().unwrap();
    let [address, _] = with_port(BACKEND, PORT);
    let listener = listen(&lab.backend, address);
    let client = connect(&lab.client, address);
    for direction in [Direction::ToHost, Direction::ToClient] {
        lab.outer.switch().set_chance(direction, 0.01).unwrap();
    }
    both_ways(&client, &accept(&listener), 100);
    let counters = lab.outer.switch().counters().unwrap();
    println!("{counters:?}");
    assert!(counters.lost_in_flood > 0 && counters.lost_to_client > 0);
}

#[test]
fn a_recording_has_every_segment_with_its_checksum() {
    let mut lab = SpliceLab::plain().unwrap();
    lab.receive_whole_frames().unwrap();
    for (address, name) in with_port(BACKEND, PORT).into_iter().zip(["v4", "v6"]) {
        let captures = [(&lab.client, "client"), (&lab.backend, "backend")].map(|(netns, end)| {
            let name = format!("{name}-{end}");
            Capture::start(netns, INTERFACE, lab.scratch(), &name).unwrap()
        });
        let listener = listen(&lab.backend, address);
        let client = connect(&lab.client, address);
        both_ways(&client, &accept(&listener), 20);
        for capture in captures {
            let recording = capture.stop().unwrap();
            let segments = recording.segments().unwrap();
            let payload: u32 = segments.iter().map(|segment| segment.length).sum();
            assert!(payload >= 2 * 20 * 65_536, "{payload} bytes");
            let good = recording.count("tcp.checksum.status == 1").unwrap();
            assert_eq!(good, segments.len());
            assert_eq!(out_of_window(&segments), []);
        }
    }
}
