//! Which address and port a target sees.

use xdp_common::{splice::flow::MARK_RST, tuple::Addr, wire::tcp::Flags};

use super::{
    peers::{TestClient, syn_ack},
    world::{Lab, addr, target_addr},
};
use crate::engine::{
    handshake::outcome::{Notice, Outcome},
    reason::ConnectError,
};

fn pool(ports: &[u16]) -> Vec<(Addr, u16)> {
    ports.iter().map(|port| (addr("10.9.9.9"), *port)).collect()
}

#[test]
fn a_tuple_in_use_at_one_target_is_free_at_another() {
    let mut lab = Lab::new(2);
    lab.establish(&TestClient::default());
    // Another client address would not collide; the same one through another service does.
    lab.world.pool = Some(vec![(TestClient::default().tuple.src, 40_000)]);
    let syn = lab.answer(TestClient::at(2).ack());
    assert_eq!(syn.tuple.dst, target_addr(1));
    assert!(
        lab.world
            .attempted
            .iter()
            .any(|a| a.1 == Err(ConnectError::NoLocalPort))
    );
}

#[test]
fn a_tuple_in_use_everywhere_is_refused() {
    let mut lab = Lab::new(1);
    lab.establish(&TestClient::default());
    lab.world.pool = Some(vec![(TestClient::default().tuple.src, 40_000)]);
    let rst = lab.answer(TestClient::at(2).ack());
    assert_eq!(rst.flags, Flags::RST.with(Flags::ACK));
    assert_eq!(rst.tuple.dst_port, 2);
    let ended: Vec<_> = lab.world.ended.iter().map(|ended| ended.0).collect();
    assert_eq!(ended, [Outcome::Established, Outcome::SourceInUse]);
}

#[test]
fn a_tuple_of_a_flow_that_is_over_is_taken() {
    let mut lab = Lab::new(1);
    lab.establish(&TestClient::default());
    lab.world.flows.only().seen[0].marks |= MARK_RST;
    lab.world.pool = Some(vec![(TestClient::default().tuple.src, 40_000)]);
    let syn = lab.answer(TestClient::at(2).ack());
    assert_eq!(syn.flags, Flags::SYN);
    assert_eq!(lab.world.flows.only().client_port, 2);
    assert_eq!(lab.world.notices, [Notice::FlowReused]);
}

#[test]
fn the_pool_hides_the_client() {
    let mut lab = Lab::new(1);
    lab.world.pool = Some(pool(&[1_000, 1_001]));
    let first = lab.answer(TestClient::at(1).ack());
    let second = lab.answer(TestClient::at(2).ack());
    let sources = [first, second].map(|syn| (syn.tuple.src, syn.tuple.src_port));
    assert_eq!(
        sources,
        [(addr("10.9.9.9"), 1_000), (addr("10.9.9.9"), 1_001)]
    );
    // Answers find their way back.
    for (syn, port) in [(second, 2), (first, 1)] {
        let update = lab.receive(syn_ack(&syn))[1];
        assert_eq!(update.tuple.dst_port, port);
    }
    // All its ports are in use now.
    let rst = lab.answer(TestClient::at(3).ack());
    assert_eq!(rst.flags, Flags::RST.with(Flags::ACK));
}
