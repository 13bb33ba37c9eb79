//! What targets do, and do not.

use xdp_common::wire::tcp::{Flags, Kind};

use super::{
    peers::{TARGET_ISN, TestClient, refusal, reply, syn_ack},
    world::{CONNECT_TIMEOUT_MS, FIRST_TARGET, Lab, SERVICE, target_addr},
};
use crate::engine::{
    handshake::{
        RETRY_MS, SYN_WAIT_MS,
        outcome::{Notice, Outcome},
    },
    reason::ConnectError,
    wheel::GRANULARITY_MS,
};

const RST_ACK: Flags = Flags::RST.with(Flags::ACK);

/// Whether something that was due at `due` happened as soon as the wheel can tell.
fn on_time(at: u64, due: u64) -> bool {
    (due..due + GRANULARITY_MS).contains(&at)
}

#[test]
fn a_lost_syn_is_sent_again_ever_more_slowly() {
    let mut lab = Lab::new(1);
    lab.world.service.connect_timeout_ms = 10_000;
    let client = TestClient::default();
    let syn = lab.answer(client.ack());
    let mut due = 0;
    let mut wait = u64::from(SYN_WAIT_MS);
    let sent = lab.pass(5_000);
    assert_eq!(sent.len(), 4, "after 0.2, 0.6, 1.4 and 3 s");
    for (at, again) in sent {
        due += wait;
        // Each wait starts when the one before was noticed.
        assert!(
            (due..due + 4 * GRANULARITY_MS).contains(&at),
            "{at} for {due}"
        );
        wait *= 2;
        assert_eq!(again, syn);
    }
    assert_eq!(lab.world.notices, [Notice::SynRetransmitted; 4]);
    // An answer to any of them will do.
    assert_eq!(lab.receive(syn_ack(&syn)).len(), 2);
}

#[test]
fn a_repeated_syn_ack_before_the_first_was_seen_to_is_nobodys() {
    let mut lab = Lab::new(1);
    let client = TestClient::default();
    let syn = lab.answer(client.ack());
    lab.receive(syn_ack(&syn));
    // The flow is open: the data path takes all further ones to the client.
    lab.stray(syn_ack(&syn));
    assert_eq!(lab.world.ended, [(Outcome::Established, 0)]);
}

#[test]
fn a_target_that_refuses_is_followed_by_another() {
    let mut lab = Lab::new(3);
    let client = TestClient::default();
    let first = lab.answer(client.ack());
    let second = lab.answer(refusal(&first));
    assert_eq!(second.tuple.dst, target_addr(1));
    assert_eq!((second.seq, second.flags), (client.isn, Flags::SYN));
    assert_eq!(lab.world.flows.only().target, FIRST_TARGET + 1);
    assert_eq!(lab.receive(syn_ack(&second)).len(), 2);
    let refused = (FIRST_TARGET, Err(ConnectError::Refused));
    assert_eq!(lab.world.attempted, [refused, (FIRST_TARGET + 1, Ok(()))]);
    assert_eq!(lab.world.notices, [Notice::FailedOver]);
    assert_eq!(lab.world.ended, [(Outcome::Established, 0)]);
}

#[test]
fn when_all_refuse_the_client_gets_a_rst_at_once() {
    let mut lab = Lab::new(2);
    let client = TestClient::default();
    let first = lab.answer(client.ack());
    let second = lab.answer(refusal(&first));
    let rst = lab.answer(refusal(&second));
    assert_eq!(rst.tuple.dst, client.tuple.src);
    assert_eq!(rst.flags, RST_ACK);
    assert_eq!(
        rst.seq,
        client.cookie().wrapping_add(1),
        "as the client expects"
    );
    assert_eq!(rst.ack, client.isn.wrapping_add(1));
    lab.assert_ended(&[Outcome::Refused]);
}

#[test]
fn no_more_targets_are_tried_than_configured() {
    let mut lab = Lab::new(5);
    let mut syn = lab.answer(TestClient::default().ack());
    for _ in 1..3 {
        syn = lab.answer(refusal(&syn));
        assert_eq!(syn.flags, Flags::SYN);
    }
    assert_eq!(lab.answer(refusal(&syn)).flags, RST_ACK);
    lab.assert_ended(&[Outcome::Refused]);
}

#[test]
fn a_dead_target_costs_its_timeout_and_no_more() {
    let mut lab = Lab::new(2);
    let client = TestClient::default();
    lab.answer(client.ack());
    let sent = lab.pass(CONNECT_TIMEOUT_MS + GRANULARITY_MS);
    let [.., (at, rst), (also_at, syn)] = sent[..] else {
        panic!("{sent:?}");
    };
    assert!(on_time(at, CONNECT_TIMEOUT_MS) && at == also_at, "at {at}");
    assert_eq!((rst.tuple.dst, rst.flags), (target_addr(0), Flags::RST));
    assert_eq!(
        rst.seq,
        client.isn.wrapping_add(1),
        "what the target expects, if it lives"
    );
    assert_eq!((syn.tuple.dst, syn.flags), (target_addr(1), Flags::SYN));
    // What the first one says now is for nobody.
    let late = reply(&rst, Kind::SynAck, Flags::SYN.with(Flags::ACK), 1, rst.seq);
    lab.stray(late);
    assert_eq!(lab.receive(syn_ack(&syn)).len(), 2);
    assert_eq!(
        lab.world.attempted[0],
        (FIRST_TARGET, Err(ConnectError::Timeout))
    );
}

#[test]
fn when_all_are_dead_both_sides_are_told() {
    let mut lab = Lab::new(1);
    let client = TestClient::default();
    lab.answer(client.ack());
    let sent = lab.pass(2 * CONNECT_TIMEOUT_MS);
    let [.., (at, target), (_, rst)] = sent[..] else {
        panic!("{sent:?}");
    };
    assert!(on_time(at, CONNECT_TIMEOUT_MS), "at {at}");
    assert_eq!(
        (target.tuple.dst, target.flags),
        (target_addr(0), Flags::RST)
    );
    assert_eq!((rst.tuple.dst, rst.flags), (client.tuple.src, RST_ACK));
    lab.assert_ended(&[Outcome::Timeout]);
    let waited_ms = lab.world.ended[0].1;
    assert!(on_time(waited_ms, CONNECT_TIMEOUT_MS), "{waited_ms}");
}

#[test]
fn another_connection_in_the_targets_mind_is_reset_and_the_syn_repeated() {
    let mut lab = Lab::new(1);
    let client = TestClient::default();
    let syn = lab.answer(client.ack());
    // What TIME_WAIT or an old connection says to a SYN (RFC 9293 3.10.7.4).
    let rst = lab.answer(reply(&syn, Kind::Ack, Flags::ACK, 99, 4_242));
    assert_eq!((rst.flags, rst.seq), (Flags::RST, 4_242));
    let (at, again) = lab.pass(u64::from(RETRY_MS) + GRANULARITY_MS)[0];
    assert!(on_time(at, u64::from(RETRY_MS)), "at {at}");
    assert_eq!(again, syn);
    // Once only, if the target insists.
    let syn_ack_flags = Flags::SYN.with(Flags::ACK);
    let rst = lab.answer(reply(&syn, Kind::SynAck, syn_ack_flags, 99, 4_243));
    assert_eq!((rst.flags, rst.seq), (Flags::RST, 4_243));
    assert_eq!(lab.pass(100), []);
    assert_eq!(lab.receive(syn_ack(&syn)).len(), 2);
    let wrong = lab.world.notices.iter().filter(|n| **n == Notice::WrongAck);
    assert_eq!(wrong.count(), 2);
}

#[test]
fn resets_and_data_that_do_not_answer_the_syn_are_nobodys() {
    let mut lab = Lab::new(2);
    let syn = lab.answer(TestClient::default().ack());
    let next = syn.seq.wrapping_add(1);
    lab.stray(reply(&syn, Kind::Rst, RST_ACK, 0, syn.seq));
    lab.stray(reply(&syn, Kind::Rst, Flags::RST, next, 0));
    lab.stray(reply(&syn, Kind::Syn, Flags::SYN, 1, 0));
    lab.stray(reply(&syn, Kind::Ack, Flags::ACK, TARGET_ISN + 1, next));
    let mut elsewhere = syn_ack(&syn);
    elsewhere.tuple.dst_port += 1;
    lab.stray(elsewhere);
    assert_eq!(lab.engine.depth(SERVICE), 1);
}

#[test]
fn a_neighbour_that_is_not_resolved_is_waited_for() {
    let mut lab = Lab::new(1);
    lab.world.resolved = false;
    assert_eq!(lab.receive(TestClient::default().ack()), []);
    assert_eq!(lab.pass(100), []);
    lab.world.resolved = true;
    let (at, syn) = lab.pass(2 * u64::from(RETRY_MS))[0];
    assert!(at <= u64::from(RETRY_MS) + GRANULARITY_MS, "at {at}");
    assert_eq!(lab.receive(syn_ack(&syn)).len(), 2);
    assert!(lab.world.notices.iter().all(|n| *n == Notice::HopUnknown));
}

#[test]
fn a_neighbour_that_stays_unknown_fails_the_attempt() {
    let mut lab = Lab::new(1);
    lab.world.resolved = false;
    lab.receive(TestClient::default().ack());
    let sent = lab.pass(2 * CONNECT_TIMEOUT_MS);
    assert_eq!(sent.len(), 1, "the client's RST: {sent:?}");
    assert_eq!(
        lab.world.attempted,
        [(FIRST_TARGET, Err(ConnectError::Unreachable))]
    );
    lab.assert_ended(&[Outcome::Unreachable]);
}

#[test]
fn a_neighbour_forgotten_meanwhile_is_answered_where_it_spoke() {
    let mut lab = Lab::new(1);
    let syn = lab.answer(TestClient::default().ack());
    lab.world.resolved = false;
    let answer = syn_ack(&syn);
    assert_eq!(lab.receive(answer)[0].hop, answer.hop);
}
