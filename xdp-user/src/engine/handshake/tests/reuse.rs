//! Ports that are used again.

use xdp_common::splice::flow::{CLIENT, MARK_FIN, MARK_RST, TARGET};

use super::{peers::TestClient, world::Lab};
use crate::engine::handshake::outcome::{Notice, Outcome};

fn next_client() -> TestClient {
    TestClient {
        isn: 1 << 20,
        ..TestClient::default()
    }
}

/// A connection that both sides have closed.
fn in_time_wait() -> Lab {
    let mut lab = Lab::new(1);
    lab.establish(&TestClient::default());
    let flow = lab.world.flows.only();
    for side in [CLIENT, TARGET] {
        flow.seen[side].marks |= MARK_FIN;
        flow.seen[side].fin = flow.seen[1 - side].acked.wrapping_add(1);
        if side == TARGET {
            flow.seen[side].fin = flow.seen[side].fin.wrapping_sub(flow.seq_delta);
        }
    }
    for side in [CLIENT, TARGET] {
        flow.seen[side].acked = flow.seen[side].acked.wrapping_add(1);
    }
    lab
}

#[test]
fn a_new_connection_takes_the_place_of_one_in_time_wait() {
    let mut lab = in_time_wait();
    let (ack, _) = lab.establish(&next_client());
    assert_eq!(ack.seq, (1 << 20) + 1);
    assert_eq!(lab.world.flows.only().client_isn, 1 << 20);
    assert_eq!(lab.world.notices, [Notice::FlowReused]);
    assert_eq!(lab.world.ended, [(Outcome::Established, 0); 2]);
}

#[test]
fn and_of_one_that_was_reset() {
    let mut lab = Lab::new(1);
    lab.establish(&TestClient::default());
    lab.world.flows.only().seen[TARGET].marks |= MARK_RST;
    lab.establish(&next_client());
    assert_eq!(lab.world.notices, [Notice::FlowReused]);
}

#[test]
fn a_late_copy_of_the_first_segment_is_no_new_connection() {
    let mut lab = in_time_wait();
    lab.stray(TestClient::default().ack());
    lab.stray(TestClient::default().probe());
    assert_eq!(lab.world.flows.len(), 1);
}

#[test]
fn an_open_connection_is_nobodys_to_take() {
    let mut lab = Lab::new(1);
    lab.establish(&TestClient::default());
    lab.stray(next_client().ack());
    // Closed by one side is not over.
    lab.world.flows.only().seen[CLIENT].marks |= MARK_FIN;
    lab.stray(next_client().ack());
}
