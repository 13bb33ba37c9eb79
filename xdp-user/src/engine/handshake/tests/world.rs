//! A client, its service, some targets, and a record of all that the engine does.

use std::{collections::HashMap, net::IpAddr};

use xdp_common::{
    abi::{OFFER_ECN, OFFER_SACK, OFFER_TIMESTAMPS, OFFER_WINDOW_SCALE},
    cookie::{Family, Key},
    splice::{
        flow::{Flow, Hop, STATE_OPEN, STATE_PENDING},
        index::SideKey,
    },
    tuple::Addr,
};

use super::peers::{TestClient, syn_ack};
use crate::engine::{
    Tick,
    balancer::BackendSet,
    handshake::{
        Handshakes,
        effects::{Choice, FlowId, Flows, OpenError, Service, Translation, World},
        outcome::{Notice, Outcome},
        outgoing::Outgoing,
        received::Received,
    },
    reason::ConnectError,
};

pub(super) const KEYS: [Key; 2] = [Key([1, 2]), Key([3, 4])];

/// The service's id.
pub(super) const SERVICE: u16 = 5;

/// What the service's SYN-ACKs scale by.
pub(super) const OFFERED_SCALE: u8 = 7;

/// How long a target has to answer, milliseconds.
pub(super) const CONNECT_TIMEOUT_MS: u64 = 1_000;

pub(super) fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().expect("an address").into()
}

/// A table without hashing or a bound on its index.
#[derive(Default)]
pub(super) struct TestFlows {
    flows: HashMap<u32, Flow>,
    sides: HashMap<[u64; 3], u32>,
    opened: u32,
    /// Set to make it full.
    pub(super) refusal: Option<OpenError>,
}

fn side(key: SideKey) -> [u64; 3] {
    let place = u64::from(key.port) << 16 | u64::from(key.place);
    [key.addr.hi, key.addr.lo, place]
}

fn sides(flow: &Flow) -> [[u64; 3]; 2] {
    [
        side(SideKey::client(flow.client, flow.client_port, flow.service)),
        side(SideKey::target(flow.nat, flow.nat_port, flow.target)),
    ]
}

impl TestFlows {
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.sides.len(), self.flows.len() * 2);
        self.flows.len()
    }

    /// The only flow.
    pub(super) fn only(&mut self) -> &mut Flow {
        assert_eq!(self.len(), 1);
        self.flows.values_mut().next().expect("one")
    }
}

impl Flows for TestFlows {
    fn find(&self, key: SideKey) -> Option<FlowId> {
        self.sides.get(&side(key)).copied().map(FlowId)
    }

    fn open(&mut self, flow: &Flow) -> Result<FlowId, OpenError> {
        if let Some(refusal) = self.refusal {
            return Err(refusal);
        }
        let [client, target] = sides(flow);
        if let Some(other) = self.sides.get(&client) {
            return Err(OpenError::ClientInUse(FlowId(*other)));
        }
        if let Some(other) = self.sides.get(&target) {
            return Err(OpenError::TargetInUse(FlowId(*other)));
        }
        self.opened += 1;
        let flow = Flow {
            state: STATE_PENDING,
            ..*flow
        };
        self.flows.insert(self.opened, flow);
        self.sides.insert(client, self.opened);
        self.sides.insert(target, self.opened);
        Ok(FlowId(self.opened))
    }

    fn get(&self, id: FlowId) -> Flow {
        self.flows[&id.0]
    }

    fn establish(&mut self, id: FlowId, translation: &Translation) {
        let flow = self.flows.get_mut(&id.0).expect("a flow");
        assert_eq!(flow.state, STATE_PENDING);
        *flow = Flow {
            state: STATE_OPEN,
            seq_delta: translation.seq_delta,
            ts_delta: translation.ts_delta,
            offered_scale: translation.offered_scale,
            target_scale: translation.target_scale,
            client_shift: translation.client_shift,
            timestamps: translation.timestamps.into(),
            ..*flow
        };
    }

    fn close(&mut self, id: FlowId) {
        let flow = self.flows.remove(&id.0).expect("a flow");
        for side in sides(&flow) {
            assert_eq!(self.sides.remove(&side), Some(id.0));
        }
    }
}

/// Everything around the engine.
pub(super) struct TestWorld {
    pub(super) flows: TestFlows,
    pub(super) service: Service,
    /// Targets by position; those that are not there are not usable.
    pub(super) targets: Vec<bool>,
    /// Whether the neighbour is resolved.
    pub(super) resolved: bool,
    /// Sources of the pool; with `None` the client's own.
    pub(super) pool: Option<Vec<(Addr, u16)>>,
    pub(super) sent: Vec<Outgoing>,
    pub(super) attempted: Vec<(u16, Result<(), ConnectError>)>,
    pub(super) ended: Vec<(Outcome, u64)>,
    pub(super) notices: Vec<Notice>,
}

/// The slot of the first target: slots are not positions.
pub(super) const FIRST_TARGET: u16 = 40;

const TARGET_PORT: u16 = 8080;

pub(super) fn target_addr(position: usize) -> Addr {
    Addr::v4([10, 0, 0, position as u8 + 1])
}

/// The service of each family.
pub(super) fn service_end(family: Family) -> (Addr, u16) {
    let text = match family {
        Family::V4 => "198.51.100.1",
        Family::V6 => "2001:db8::1",
    };
    (addr(text), 443)
}

pub(super) const TARGET_HOP: Hop = Hop {
    ifindex: 3,
    tags: [0; 2],
    dst_mac: [2, 0, 0, 0, 0, 3],
    src_mac: [2, 0, 0, 0, 0, 4],
    confirmed_s: 9,
};

impl World for TestWorld {
    type Flows = TestFlows;

    fn flows(&self) -> &TestFlows {
        &self.flows
    }

    fn flows_mut(&mut self) -> &mut TestFlows {
        &mut self.flows
    }

    fn service(&self, addr: Addr, port: u16) -> Option<Service> {
        let mut ends = [Family::V4, Family::V6].map(service_end).into_iter();
        ends.any(|end| end == (addr, port)).then_some(self.service)
    }

    fn target(&self, addr: Addr, port: u16) -> Option<u16> {
        let mut positions = 0..self.targets.len();
        let position = positions.find(|position| target_addr(*position) == addr)?;
        (port == TARGET_PORT).then_some(FIRST_TARGET + position as u16)
    }

    fn choose(&mut self, service: u16, _: Addr, tried: BackendSet) -> Option<Choice> {
        assert_eq!(service, SERVICE);
        let mut usable = self.targets.iter().enumerate();
        let position = usable
            .find(|(position, usable)| **usable && tried >> position & 1 == 0)?
            .0;
        Some(Choice {
            target: FIRST_TARGET + position as u16,
            position: position as u8,
            addr: target_addr(position),
            port: TARGET_PORT,
        })
    }

    fn source(
        &mut self,
        _: u16,
        _: &Choice,
        client: (Addr, u16),
        probe: u8,
    ) -> Option<(Addr, u16)> {
        match &self.pool {
            Some(pool) => pool.get(usize::from(probe)).copied(),
            None => (probe == 0).then_some(client),
        }
    }

    fn hop(&mut self, _: u16) -> Option<Hop> {
        self.resolved.then_some(TARGET_HOP)
    }

    fn send(&mut self, segment: &Outgoing) {
        self.sent.push(*segment);
    }

    fn attempted(&mut self, _: u16, choice: &Choice, result: Result<(), ConnectError>) {
        self.attempted.push((choice.target, result));
    }

    fn ended(&mut self, _: u16, outcome: Outcome, waited_ms: u64) {
        self.ended.push((outcome, waited_ms));
    }

    fn notice(&mut self, _: u16, notice: Notice) {
        self.notices.push(notice);
    }
}

/// The engine and its world.
pub(super) struct Lab {
    pub(super) engine: Handshakes,
    pub(super) world: TestWorld,
    pub(super) now: Tick,
}

impl Lab {
    /// A service with so many targets.
    pub(super) fn new(targets: usize) -> Self {
        Self {
            engine: Handshakes::new(Tick(0), 4, KEYS),
            now: Tick(0),
            world: TestWorld {
                flows: TestFlows::default(),
                service: Service {
                    id: SERVICE,
                    window_scale: OFFERED_SCALE,
                    offer: OFFER_TIMESTAMPS | OFFER_SACK | OFFER_WINDOW_SCALE | OFFER_ECN,
                    attempts_max: 3,
                    connect_timeout_ms: CONNECT_TIMEOUT_MS as u32,
                    half_open_max: 4,
                },
                targets: vec![true; targets],
                resolved: true,
                pool: None,
                sent: Vec::new(),
                attempted: Vec::new(),
                ended: Vec::new(),
                notices: Vec::new(),
            },
        }
    }

    /// Lets the engine receive a segment; what it sends in answer.
    pub(super) fn receive(&mut self, segment: Received) -> Vec<Outgoing> {
        self.engine.receive(self.now, &segment, &mut self.world);
        std::mem::take(&mut self.world.sent)
    }

    /// The same, where it is to send one segment.
    pub(super) fn answer(&mut self, segment: Received) -> Outgoing {
        let sent = self.receive(segment);
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent[0]
    }

    /// The same, where the segment is to be nobody's.
    pub(super) fn stray(&mut self, segment: Received) {
        let strays = self.engine.strays();
        assert_eq!(self.receive(segment), []);
        assert_eq!(self.engine.strays(), strays + 1);
    }

    /// Lets `ms` pass; what was sent, and when, counted from now.
    pub(super) fn pass(&mut self, ms: u64) -> Vec<(u64, Outgoing)> {
        let start = self.now;
        let end = start.after(ms);
        let mut sent = Vec::new();
        while let Some(next) = self.engine.next().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.engine.expire(self.now, &mut self.world);
            let since = self.now.since(start);
            sent.extend(self.world.sent.drain(..).map(|segment| (since, segment)));
        }
        self.now = end;
        sent
    }

    /// Nothing is left: no flow, no entry, no timer; and everything ended like this.
    pub(super) fn assert_ended(&self, outcomes: &[Outcome]) {
        let ended: Vec<_> = self
            .world
            .ended
            .iter()
            .map(|(outcome, _)| *outcome)
            .collect();
        assert_eq!(ended, outcomes);
        assert_eq!(self.world.flows.len(), 0);
        assert_eq!(self.engine.depth(SERVICE), 0);
        assert_eq!(self.engine.next(), None);
    }

    /// Brings a client to the point where a target has taken it; what was sent to both.
    pub(super) fn establish(&mut self, client: &TestClient) -> (Outgoing, Outgoing) {
        let syn = self.answer(client.ack());
        let sent = self.receive(syn_ack(&syn));
        assert_eq!(sent.len(), 2, "{sent:?}");
        (sent[0], sent[1])
    }
}
