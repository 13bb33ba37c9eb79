//! What is counted of spliced connections.

use xdp_common::splice::flow::FlowState;

use crate::{
    engine::{
        handshake::outcome::{Notice, Outcome},
        reason::CloseReason,
    },
    proxy::stats::{Counter, Gauge, Histogram},
};

/// Names of the states of a spliced connection, by [`state_index`]: those of RFC 9293 3.3.2, as far as
/// two sides can be told apart from between them.
pub const STATES: [&str; 7] = [
    "SYN_SENT",
    "ESTABLISHED",
    "CLOSE_WAIT",
    "FIN_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSED",
];

/// The position of a state in [`STATES`].
#[must_use]
pub const fn state_index(state: FlowState) -> usize {
    match state {
        FlowState::SynSent => 0,
        FlowState::Established => 1,
        FlowState::ClientClosed => 2,
        FlowState::TargetClosed => 3,
        FlowState::Closing => 4,
        FlowState::TimeWait => 5,
        FlowState::Closed => 6,
    }
}

/// What is counted by service. A reload keeps it.
#[derive(Debug, Default)]
pub struct ServiceStats {
    /// Handshakes that ended, by [`Outcome::index`].
    pub outcomes: [Counter; Outcome::COUNT],
    /// Events in handshakes, by [`Notice::index`].
    pub notices: [Counter; Notice::COUNT],
    /// Connections that ended, by [`CloseReason::index`].
    pub closed: [Counter; CloseReason::COUNT],
    /// Connections at the last sweep, by [`state_index`].
    pub states: [Gauge; STATES.len()],
    /// Connections now, those included that are not open yet or over.
    pub flows: Gauge,
    /// From the client's cookie to the opened window, of handshakes that succeeded.
    pub handshake: Histogram,
    /// Clients turned away because the service has as many connections as it may.
    pub full: Counter,
    /// Age of the oldest handshake in progress, milliseconds.
    pub half_open_oldest_ms: Gauge,
}

/// What is counted of the splice thread and its table.
#[derive(Debug, Default)]
pub struct ThreadStats {
    /// Connections in the table, those included that are not open yet.
    pub flows: Gauge,
    /// Frames that the data path handed over.
    pub received: Counter,
    /// Frames sent.
    pub sent: Counter,
    /// Frames that could not be sent.
    pub send_failed: Counter,
    /// Frames handed over that the engine cannot read.
    pub unreadable: Counter,
    /// Frames that the kernel dropped on their way to the thread: as many wait as may, or they are
    /// longer than any that opens a connection.
    pub receive_dropped: Gauge,
    /// Times that the kernel would not send what waits, for want of room at the device.
    pub send_refused: Gauge,
    /// Segments that no handshake waited for.
    pub strays: Gauge,
    /// Keepalive probes to ends that have probably reset their connection.
    pub probes: Counter,
    /// Time spent sweeping the table, microseconds.
    pub sweep_us: Counter,
}
