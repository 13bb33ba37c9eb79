//! What the handshake engine asks of the world around it.

use xdp_common::{
    splice::{
        flow::{Flow, Hop},
        index::SideKey,
    },
    tuple::Addr,
};

use super::{
    outcome::{Notice, Outcome},
    outgoing::Outgoing,
};
use crate::engine::{balancer::BackendSet, reason::ConnectError};

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

/// The table of flows, as the engine uses it. Pending flows that a process before this one left
/// behind are closed before the engine starts: nobody knows what they wait for.
pub trait Flows {
    /// The flow that has this side, pending or open.
    fn find(&self, side: SideKey) -> Option<FlowId>;

    /// Enters a pending flow under both its sides. Of `flow`, the table sets `state`, `opened_s`
    /// and both `seen.at_s` itself; the rest is the engine's, the first acknowledgements of both
    /// sides included, so that the data path can judge a RST from the first packet on.
    ///
    /// # Errors
    /// See [`OpenError`]; then nothing has changed.
    fn open(&mut self, flow: &Flow) -> Result<FlowId, OpenError>;

    /// The flow as it stands now. `id` is of [`open`](Self::open) or [`find`](Self::find), and not
    /// closed since.
    fn get(&self, id: FlowId) -> Flow;

    /// Hands a pending flow over to the data path.
    fn establish(&mut self, id: FlowId, translation: &Translation);

    /// Takes a flow out.
    fn close(&mut self, id: FlowId);
}

/// A service, as far as its handshakes are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its id: slot in `SERVICE_STATS` and `SPLICED`.
    pub id: u16,
    /// Window scale that its SYN-ACKs offer: 0 to 14.
    pub window_scale: u8,
    /// Options that its SYN-ACKs may offer: `OFFER_*`.
    pub offer: u8,
    /// Targets that are tried for one client at most; at least 1.
    pub attempts_max: u8,
    /// How long one target has to answer, milliseconds; at least 1.
    pub connect_timeout_ms: u32,
    /// Handshakes in progress at a time; at least 1.
    pub half_open_max: u32,
}

/// A target to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Slot in `TARGETS`.
    pub target: u16,
    /// Position among the service's targets, to leave it out at the next try: below 64.
    pub position: u8,
    /// Its address, of the service's family.
    pub addr: Addr,
    /// Its port, host order.
    pub port: u16,
}

/// Everything that handshakes need, and whatever they lead to.
pub trait World {
    /// Its table of flows.
    type Flows: Flows;

    /// The table, to look something up.
    fn flows(&self) -> &Self::Flows;

    /// The table, to change it.
    fn flows_mut(&mut self) -> &mut Self::Flows;

    /// The spliced service at this address and port.
    fn service(&self, addr: Addr, port: u16) -> Option<Service>;

    /// The slot of the target at this address and port.
    fn target(&self, addr: Addr, port: u16) -> Option<u16>;

    /// A target for a client of the service, out of those that may get a connection and whose
    /// positions are not in `tried`; `None` when there is none, or no such service any more.
    fn choose(&mut self, service: u16, client: Addr, tried: BackendSet) -> Option<Choice>;

    /// Address and port to use towards a target of the service: with `nat = "dnat"` those of the
    /// client, at the first `probe` only; with `nat = "full"` some of the pool, others at each
    /// probe. Probes count from 0; `None` when there is nothing more to offer. Whether it is free,
    /// the table knows.
    fn source(
        &mut self,
        service: u16,
        choice: &Choice,
        client: (Addr, u16),
        probe: u8,
    ) -> Option<(Addr, u16)>;

    /// The way to a target; `None` while its neighbour is not resolved. It is asked again for
    /// every frame, and each such question is a reason to resolve it.
    fn hop(&mut self, target: u16) -> Option<Hop>;

    /// Sends a segment. If it cannot leave, it is lost, as it might be in any network: whoever
    /// needs it asks again.
    fn send(&mut self, segment: &Outgoing);

    /// An attempt at a target has ended: what passive ejection is told. Not called for attempts
    /// that the client gave up.
    fn attempted(&mut self, service: u16, choice: &Choice, result: Result<(), ConnectError>);

    /// A handshake has ended, or a client was turned away: exactly once for each. `waited_ms` is
    /// the time since the client's cookie came back.
    fn ended(&mut self, service: u16, outcome: Outcome, waited_ms: u64);

    /// Something happened on the way that is worth counting.
    fn notice(&mut self, service: u16, notice: Notice);
}
