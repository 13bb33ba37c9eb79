//! What the two sides are told of each other.

use xdp_common::{
    cookie::Family,
    splice::flow::{CLIENT, FlowState, MARK_ACKED, STATE_OPEN, TARGET},
    wire::{
        tcp::Flags,
        tcp_options::{TcpOptions, Timestamps},
    },
};

use super::{
    peers::{CLIENT_HOP, TARGET_CLOCK, TARGET_ISN, TestClient, syn_ack},
    world::{FIRST_TARGET, Lab, OFFERED_SCALE, TARGET_HOP, target_addr},
};
use crate::engine::handshake::outcome::{Notice, Outcome};

#[test]
fn the_target_gets_the_clients_syn() {
    let mut lab = Lab::new(1);
    let client = TestClient::default();
    let syn = lab.answer(client.ack());
    assert_eq!(syn.hop, TARGET_HOP);
    assert_eq!(
        (syn.tuple.src, syn.tuple.src_port),
        (client.tuple.src, 40_000)
    );
    assert_eq!((syn.tuple.dst, syn.tuple.dst_port), (target_addr(0), 8080));
    assert_eq!((syn.seq, syn.ack, syn.flags), (client.isn, 0, Flags::SYN));
    // 251 in units of 256 bytes.
    assert_eq!(syn.window, 64_256);
    let expected = TcpOptions {
        mss: Some(1460),
        window_scale: Some(8),
        sack: true,
        timestamps: Some(Timestamps {
            value: 5_000,
            echo: 0,
        }),
    };
    assert_eq!(syn.options, expected);
}

#[test]
fn both_sides_are_acknowledged_in_their_own_numbers() {
    let mut lab = Lab::new(1);
    let client = TestClient::default();
    let (ack, update) = lab.establish(&client);

    assert_eq!(ack.hop, TARGET_HOP);
    assert_eq!(
        (ack.seq, ack.ack),
        (client.isn.wrapping_add(1), TARGET_ISN + 1)
    );
    assert_eq!((ack.flags, ack.window), (Flags::ACK, 251));
    let timestamps = Timestamps {
        value: 5_000,
        echo: TARGET_CLOCK,
    };
    assert_eq!(ack.options.timestamps, Some(timestamps));

    assert_eq!(update.hop, CLIENT_HOP);
    assert_eq!(update.tuple.src, client.tuple.dst);
    assert_eq!(update.tuple.dst, client.tuple.src);
    assert_eq!(update.seq, client.cookie().wrapping_add(1));
    assert_eq!(update.ack, client.isn.wrapping_add(1));
    assert_eq!(
        (update.flags, update.window),
        (Flags::ACK, 65_160 >> OFFERED_SCALE)
    );
    // The clock stands where the client saw it last.
    let timestamps = Timestamps {
        value: 70_000,
        echo: 5_000,
    };
    assert_eq!(update.options.timestamps, Some(timestamps));
    assert_eq!(lab.world.ended, [(Outcome::Established, 0)]);
    assert_eq!(lab.world.attempted, [(FIRST_TARGET, Ok(()))]);
}

#[test]
fn the_flow_translates_between_the_two() {
    let mut lab = Lab::new(1);
    let client = TestClient::default();
    lab.establish(&client);
    let flow = *lab.world.flows.only();
    assert_eq!(flow.state, STATE_OPEN);
    assert_eq!(flow.tcp_state(), FlowState::Established);
    assert_eq!(TARGET_ISN.wrapping_add(flow.seq_delta), client.cookie());
    assert_eq!(TARGET_CLOCK.wrapping_add(flow.ts_delta), 70_000);
    assert_eq!(
        (flow.offered_scale, flow.target_scale, flow.client_shift),
        (OFFERED_SCALE, 9, 0)
    );
    assert_eq!(
        (flow.timestamps, flow.client_isn, flow.hop),
        (1, client.isn, CLIENT_HOP)
    );
    // A RST of either side can be judged from the first packet on.
    let marks = flow.seen.map(|seen| seen.marks);
    assert_eq!(marks, [MARK_ACKED; 2]);
    assert_eq!(flow.seen[CLIENT].acked, client.cookie().wrapping_add(1));
    assert_eq!(flow.seen[TARGET].acked, client.isn.wrapping_add(1));
}

#[test]
fn a_target_without_window_scale_gets_windows_in_bytes() {
    let mut lab = Lab::new(1);
    let client = TestClient::default();
    let syn = lab.answer(client.ack());
    let mut answer = syn_ack(&syn);
    answer.options.window_scale = None;
    let sent = lab.receive(answer);
    assert_eq!(sent[0].window, 251 << 8);
    assert_eq!(sent[1].window, 65_160 >> OFFERED_SCALE);
    let flow = lab.world.flows.only();
    assert_eq!(
        (flow.offered_scale, flow.target_scale, flow.client_shift),
        (OFFERED_SCALE, 0, 8)
    );
    assert_eq!(lab.world.notices, [Notice::OptionMissing]);
}

#[test]
fn windows_beyond_16_bits_saturate() {
    let mut lab = Lab::new(1);
    let client = TestClient {
        window: 257,
        ..TestClient::default()
    };
    let syn = lab.answer(client.ack());
    assert_eq!(syn.window, u16::MAX);
    let mut answer = syn_ack(&syn);
    answer.options.window_scale = None;
    assert_eq!(lab.receive(answer)[0].window, u16::MAX);
}

#[test]
fn a_client_without_options_gets_none() {
    let mut lab = Lab::new(1);
    let mut client = TestClient {
        timestamps: None,
        window: 4_096,
        ..TestClient::default()
    };
    client.offer.window_scale = None;
    client.offer.sack = false;
    let syn = lab.answer(client.ack());
    let expected = TcpOptions {
        mss: Some(1460),
        ..TcpOptions::default()
    };
    assert_eq!((syn.options, syn.window), (expected, 4_096));
    let sent = lab.receive(syn_ack(&syn));
    assert_eq!(
        (sent[0].options, sent[0].window),
        (TcpOptions::default(), 4_096)
    );
    assert_eq!(
        (sent[1].options, sent[1].window),
        (TcpOptions::default(), 65_160)
    );
    let flow = lab.world.flows.only();
    assert_eq!(
        (flow.offered_scale, flow.target_scale, flow.client_shift),
        (0, 0, 0)
    );
    assert_eq!((flow.ts_delta, flow.timestamps), (0, 0));
    assert_eq!(lab.world.notices, []);
}

#[test]
fn a_target_without_timestamps_gets_none() {
    let mut lab = Lab::new(1);
    let syn = lab.answer(TestClient::default().ack());
    let mut answer = syn_ack(&syn);
    answer.options.timestamps = None;
    let sent = lab.receive(answer);
    assert_eq!(sent[0].options.timestamps, None);
    assert!(
        sent[1].options.timestamps.is_some(),
        "the client has agreed to them"
    );
    assert_eq!(lab.world.flows.only().timestamps, 0);
    assert_eq!(lab.world.notices, [Notice::OptionMissing]);
}

#[test]
fn a_service_without_timestamps_ignores_the_clients() {
    let mut lab = Lab::new(1);
    lab.world.service.offer = 0;
    let syn = lab.answer(TestClient::default().ack());
    assert_eq!(syn.options.timestamps, None);
}

#[test]
fn ecn_is_what_the_echoed_timestamp_says() {
    let mut lab = Lab::new(1);
    let client = TestClient {
        timestamps: Some(Timestamps {
            value: 1,
            echo: 70_001,
        }),
        ..TestClient::default()
    };
    let syn = lab.answer(client.ack());
    assert_eq!(syn.flags, Flags::SYN.with(Flags::ECE).with(Flags::CWR));
}

#[test]
fn a_window_scale_beyond_the_largest_is_taken_as_that() {
    let mut lab = Lab::new(1);
    let syn = lab.answer(TestClient::default().ack());
    let mut answer = syn_ack(&syn);
    answer.options.window_scale = Some(200);
    lab.receive(answer);
    assert_eq!(lab.world.flows.only().target_scale, 14);
}

#[test]
fn ipv6_is_no_different() {
    let mut lab = Lab::new(1);
    let client = TestClient::v6();
    let syn = lab.answer(client.ack());
    assert_eq!((syn.family, syn.seq), (Family::V6, client.isn));
    assert_eq!(syn.tuple.src, client.tuple.src);
    assert_eq!(syn.options.mss, Some(1440));
    let sent = lab.receive(syn_ack(&syn));
    assert!(sent.iter().all(|sent| sent.family == Family::V6));
    assert_eq!(sent[1].tuple.dst, client.tuple.src);
    assert_eq!(sent[1].seq, client.cookie().wrapping_add(1));
    // A cookie covers the whole address.
    let mut other = client.ack();
    other.tuple.src.hi ^= 1;
    lab.stray(other);
}
