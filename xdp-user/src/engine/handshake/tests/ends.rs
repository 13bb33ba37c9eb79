//! Bounds, and ends that nobody on the wire has asked for.

use xdp_common::{splice::index::SideKey, wire::tcp::Flags};

use super::{
    peers::{TestClient, syn_ack},
    world::{Lab, SERVICE},
};
use crate::engine::handshake::{
    effects::{Flows as _, OpenError},
    outcome::Outcome,
};

const RST_ACK: Flags = Flags::RST.with(Flags::ACK);

#[test]
fn without_a_usable_target_the_client_is_told() {
    let mut lab = Lab::new(1);
    lab.world.targets[0] = false;
    let rst = lab.answer(TestClient::default().ack());
    assert_eq!(rst.flags, RST_ACK);
    lab.assert_ended(&[Outcome::NoTarget]);
}

#[test]
fn a_full_table_turns_newcomers_away() {
    for (refusal, outcome) in [
        (OpenError::Full, Outcome::TableFull),
        (OpenError::NoRoom, Outcome::IndexFull),
    ] {
        let mut lab = Lab::new(2);
        lab.world.flows.refusal = Some(refusal);
        let client = TestClient::default();
        let rst = lab.answer(client.probe());
        assert_eq!(rst.flags, RST_ACK);
        assert_eq!(rst.seq, client.cookie().wrapping_add(1));
        assert_eq!(rst.ack, client.isn.wrapping_add(1));
        lab.assert_ended(&[outcome]);
    }
}

#[test]
fn the_half_open_bound_turns_newcomers_away_silently() {
    let mut lab = Lab::new(1);
    let syns: Vec<_> = (1..=4)
        .map(|port| lab.answer(TestClient::at(port).ack()))
        .collect();
    let newcomer = TestClient::at(5);
    assert_eq!(lab.receive(newcomer.ack()), []);
    assert_eq!(lab.world.ended, [(Outcome::HalfOpenFull, 0)]);
    assert_eq!(lab.world.flows.len(), 4, "those before it stay");
    // The next segment of the newcomer finds the room that another leaves.
    lab.receive(syn_ack(&syns[2]));
    assert_eq!(lab.answer(newcomer.probe()).flags, Flags::SYN);
}

#[test]
fn a_service_has_a_bound_of_its_own() {
    let mut lab = Lab::new(1);
    lab.world.service.half_open_max = 1;
    lab.answer(TestClient::at(1).ack());
    assert_eq!(lab.receive(TestClient::at(2).ack()), []);
    assert_eq!(lab.engine.depth(SERVICE), 1);
    assert_eq!(lab.engine.depth(SERVICE + 1), 0);
}

#[test]
fn the_age_of_the_oldest_is_told() {
    let mut lab = Lab::new(1);
    assert_eq!(lab.engine.oldest_age_ms(lab.now, SERVICE), 0);
    lab.answer(TestClient::at(1).ack());
    lab.pass(70);
    lab.answer(TestClient::at(2).ack());
    lab.pass(30);
    assert_eq!(lab.engine.oldest_age_ms(lab.now, SERVICE), 100);
    assert_eq!(lab.engine.oldest_age_ms(lab.now, SERVICE + 1), 0);
}

#[test]
fn one_can_be_aborted() {
    let mut lab = Lab::new(1);
    let client = TestClient::default();
    lab.answer(client.ack());
    let tuple = client.tuple;
    let side = SideKey::client(tuple.src, tuple.src_port, SERVICE);
    let flow = lab.world.flows.find(side).expect("pending");
    assert!(lab.engine.abort(lab.now, flow, &mut lab.world));
    assert!(!lab.engine.abort(lab.now, flow, &mut lab.world));
    let flags: Vec<_> = lab.world.sent.iter().map(|sent| sent.flags).collect();
    assert_eq!(flags, [Flags::RST, RST_ACK]);
    lab.assert_ended(&[Outcome::Aborted]);
}
