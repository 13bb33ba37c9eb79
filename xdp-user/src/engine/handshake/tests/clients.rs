//! What clients send while they wait.

use xdp_common::wire::{
    tcp::{Flags, Kind},
    tcp_options::Timestamps,
};

use super::{
    peers::{TARGET_ISN, TestClient, syn_ack},
    world::{Lab, SERVICE},
};
use crate::engine::handshake::outcome::{Notice, Outcome};

#[test]
fn a_copy_of_the_ack_changes_nothing() {
    let mut lab = Lab::new(1);
    let client = TestClient::default();
    let syn = lab.answer(client.ack());
    assert_eq!(lab.receive(client.ack()), []);
    assert_eq!(lab.engine.depth(SERVICE), 1);
    lab.receive(syn_ack(&syn));
    assert_eq!(lab.world.ended, [(Outcome::Established, 0)]);
    // And one that was on its way when the flow was opened is as good as lost.
    lab.stray(client.ack());
    assert_eq!(lab.world.flows.len(), 1);
}

#[test]
fn a_probe_of_the_zero_window_is_as_good_as_the_ack() {
    let mut lab = Lab::new(1);
    let client = TestClient::default();
    let syn = lab.answer(client.probe());
    assert_eq!(syn.seq, client.isn);
    assert_eq!(lab.receive(client.ack()), []);
    let sent = lab.receive(syn_ack(&syn));
    assert_eq!(sent[0].seq, client.isn.wrapping_add(1));
    assert_eq!(sent[1].ack, client.isn.wrapping_add(1));
}

#[test]
fn the_newest_timestamp_and_window_are_used() {
    let mut lab = Lab::new(1);
    let mut client = TestClient::default();
    let syn = lab.answer(client.ack());
    client.timestamps = Some(Timestamps {
        value: 5_400,
        echo: 70_000,
    });
    client.window = 300;
    lab.receive(client.probe());
    // An older one comes late.
    client.timestamps = Some(Timestamps {
        value: 5_100,
        echo: 69_000,
    });
    client.window = 200;
    lab.receive(client.probe());
    let again = lab.pass(250)[0].1;
    assert_eq!(again.options.timestamps.map(|ours| ours.value), Some(5_400));
    let sent = lab.receive(syn_ack(&syn));
    assert_eq!(sent[0].window, 300);
    let timestamps = Timestamps {
        value: 70_000,
        echo: 5_400,
    };
    assert_eq!(sent[1].options.timestamps, Some(timestamps));
}

#[test]
fn data_and_fin_before_the_window_is_open_are_left_to_be_repeated() {
    let mut lab = Lab::new(1);
    let client = TestClient::default();
    let syn = lab.answer(client.ack());
    let fin = Flags::ACK.with(Flags::FIN);
    let ack = client.ack();
    assert_eq!(
        lab.receive(client.segment(Kind::Ack, fin, ack.seq, ack.ack)),
        []
    );
    // One byte, and then the FIN.
    let seq = ack.seq.wrapping_add(1);
    assert_eq!(
        lab.receive(client.segment(Kind::Ack, fin, seq, ack.ack)),
        []
    );
    let sent = lab.receive(syn_ack(&syn));
    assert_eq!(
        sent[1].ack,
        client.isn.wrapping_add(1),
        "neither is acknowledged"
    );
    assert_eq!((sent[0].seq, sent[0].ack), (ack.seq, TARGET_ISN + 1));
}

#[test]
fn a_rst_gives_up_and_the_target_is_told() {
    let mut lab = Lab::new(2);
    let client = TestClient::default();
    lab.answer(client.ack());
    lab.pass(100);
    let rst = lab.answer(client.rst(client.isn.wrapping_add(1)));
    assert_eq!(
        (rst.flags, rst.seq),
        (Flags::RST, client.isn.wrapping_add(1))
    );
    assert_eq!(rst.tuple.src, client.tuple.src);
    lab.assert_ended(&[Outcome::ClientReset]);
    assert_eq!(lab.world.ended[0].1, 100);
    assert_eq!(lab.world.attempted, [], "it is not the target's fault");
}

#[test]
fn a_rst_with_any_other_number_is_nobodys() {
    let mut lab = Lab::new(1);
    let client = TestClient::default();
    lab.answer(client.ack());
    for ahead in [0, 2, 3, 1 << 31] {
        lab.stray(client.rst(client.isn.wrapping_add(ahead)));
    }
    assert_eq!(lab.engine.depth(SERVICE), 1);
}

#[test]
fn a_late_copy_of_the_syn_is_ignored_and_another_syn_challenged() {
    let mut lab = Lab::new(1);
    let client = TestClient::default();
    lab.answer(client.ack());
    let syn = |isn| client.segment(Kind::Syn, Flags::SYN, isn, 0);
    assert_eq!(lab.receive(syn(client.isn)), []);
    let challenge = lab.answer(syn(1234));
    assert_eq!((challenge.flags, challenge.window), (Flags::ACK, 0));
    assert_eq!(challenge.seq, client.cookie().wrapping_add(1));
    assert_eq!(challenge.ack, client.isn.wrapping_add(1));
    assert_eq!(lab.world.notices, [Notice::SynChallenged]);
    // The client that knows nothing of this connection answers so (RFC 9293 3.10.7.3).
    lab.receive(client.rst(challenge.ack));
    lab.assert_ended(&[Outcome::ClientReset]);
}

#[test]
fn another_cookie_begins_anew() {
    let mut lab = Lab::new(1);
    let client = TestClient::default();
    lab.answer(client.ack());
    let next = TestClient {
        isn: 77,
        ..TestClient::default()
    };
    let sent = lab.receive(next.ack());
    assert_eq!(
        (sent[0].flags, sent[0].seq),
        (Flags::RST, client.isn.wrapping_add(1))
    );
    assert_eq!((sent[1].flags, sent[1].seq), (Flags::SYN, 77));
    assert_eq!(lab.world.ended, [(Outcome::Superseded, 0)]);
    assert_eq!(lab.engine.depth(SERVICE), 1);
    assert_eq!(lab.world.flows.only().client_isn, 77);
}

#[test]
fn without_a_cookie_nothing_happens() {
    let mut lab = Lab::new(1);
    let client = TestClient::default();
    let mut forged = client.ack();
    forged.ack ^= 1 << 20;
    lab.stray(forged);
    lab.stray(client.rst(client.isn.wrapping_add(1)));
    lab.stray(client.segment(Kind::Syn, Flags::SYN, client.isn, 0));
    let ack = client.ack();
    lab.stray(client.segment(Kind::SynAck, Flags::SYN.with(Flags::ACK), ack.seq, ack.ack));
    // Nor for what is waiting already.
    lab.answer(ack);
    lab.stray(forged);
    let mut elsewhere = ack;
    elsewhere.tuple.dst_port = 444;
    lab.stray(elsewhere);
    assert_eq!(lab.engine.depth(SERVICE), 1);
}

#[test]
fn keys_can_be_changed() {
    let mut lab = Lab::new(1);
    let [old, key] = super::world::KEYS;
    lab.engine.set_keys([key, old]);
    lab.stray(TestClient::default().ack());
    lab.engine.set_keys([old, key]);
    lab.answer(TestClient::default().ack());
}
