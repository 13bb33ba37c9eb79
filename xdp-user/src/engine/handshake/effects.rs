//! What the handshake engine asks of the world around it.

use xdp_common::splice::flow::{Flow, Hop};

/// Number of an open or pending flow in the table; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(pub u32);

/// Why a flow could not be entered in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The client's tuple has a flow already.
    ClientInUse(FlowId),
    /// Address and port towards the target are taken by another flow: try another target or port.
    TargetInUse(FlowId),
    /// The table holds as many flows as it can, those included that ended a moment ago.
    Full,
    /// Both buckets of one side are full.
    NoRoom,
}

/// What is written into a flow when the target has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// See [`Flow::seq_delta`].
    pub seq_delta: u32,
    /// See [`Flow::ts_delta`].
    pub ts_delta: u32,
    /// See [`Flow::offered_scale`].
    pub offered_scale: u8,
    /// See [`Flow::target_scale`].
    pub target_scale: u8,
    /// See [`Flow::client_shift`].
    pub client_shift: u8,
    /// See [`Flow::timestamps`].
    pub timestamps: bool,
}

/// A target to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Slot in `TARGETS`.
    pub target: u16,
    /// Position among the service's targets, to leave it out at the next try.
    pub position: u8,
    /// Its address and port.
    pub address: std::net::SocketAddr,
    /// The way to it; `ifindex` is 0 if it is not known yet.
    pub hop: Hop,
}

/// The table of flows, as the engine uses it.
pub trait Flows {
    /// Enters a pending flow under both its sides.
    ///
    /// # Errors
    /// See [`OpenError`]; then nothing has changed.
    fn open(&mut self, flow: &Flow) -> Result<FlowId, OpenError>;

    /// The flow as it stands now.
    fn get(&self, id: FlowId) -> Flow;

    /// Hands a pending flow over to the data path.
    fn establish(&mut self, id: FlowId, translation: &Translation);

    /// Takes a flow out.
    fn close(&mut self, id: FlowId);
}
