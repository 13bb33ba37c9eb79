//! What the handshake engine and the reaper act on.

use std::{collections::HashMap, sync::Arc};

use xdp_common::{
    cookie::Family,
    splice::{
        flow::{Flow, Hop},
        index::SideKey,
    },
    tuple::{Addr, Tuple},
    wire::tcp_options::TcpOptions,
};

use super::{
    ending::{self, Answer, Ending},
    links::Links,
};
use crate::{
    engine::{
        Tick,
        balancer::BackendSet,
        handshake::{
            effects::{Choice, FlowId, Flows as _, Service, World},
            outcome::{Notice, Outcome},
            outgoing::{FRAME_MAX, Outgoing},
            received::Received,
        },
        reaper::{self, Place, Spoken},
        reason::{CloseReason, ConnectError},
        tcp::Side,
    },
    flows::{Table, memory::Mapped},
    splicing::{director::Director, directory::SplicedService, stats::ThreadStats},
};

/// The table, the sockets, and whoever knows services and targets.
pub(super) struct Realm {
    pub(super) table: Table<Mapped>,
    pub(super) director: Director,
    pub(super) links: Links,
    pub(super) stats: Arc<ThreadStats>,
    pub(super) now: Tick,
    /// Services by id as they were last known: connections may outlive them.
    pub(super) known: HashMap<u16, Arc<SplicedService>>,
    /// Flows that were ended a moment ago.
    pub(super) ending: Ending,
}

impl Realm {
    /// Takes note of what the directory says now.
    pub(super) fn refresh(&mut self) {
        if self.director.refresh() {
            self.learn();
        }
    }

    /// Takes note of all services that there are.
    pub(super) fn learn(&mut self) {
        for service in self.director.directory().services() {
            self.known.insert(service.engine.id, Arc::clone(service));
        }
    }

    /// Ends an open flow. If there is a connection left, both ends are told, and the flow
    /// [lingers](Ending) for those who still send.
    pub(super) fn end(&mut self, id: FlowId, reason: CloseReason, connected: bool) {
        let flow = self.table.get(id);
        if connected {
            self.reset(&flow);
            self.table.withdraw(id);
            self.ending.enter(self.now, id);
        } else {
            self.table.close(id);
        }
        if let Some(service) = self.known.get(&flow.service) {
            service.stats.closed[reason.index()].count();
        }
    }

    /// Closes the flows that have lingered long enough.
    pub(super) fn close_ended(&mut self) {
        while let Some(id) = self.ending.expired(self.now) {
            self.table.close(id);
        }
    }

    /// Answers a segment of a flow that was ended. False if it is none.
    pub(super) fn answer_ended(&mut self, segment: &Received) -> bool {
        if self.ending.is_empty() {
            return false;
        }
        let Some(id) = self.flow_of(segment).filter(|id| self.ending.contains(*id)) else {
            return false;
        };
        match ending::answer(segment) {
            Answer::None => {}
            Answer::Reset(reset) => self.send(&reset),
            Answer::Forget => {
                self.ending.forget(id);
                self.table.close(id);
            }
        }
        true
    }

    /// The flow that a segment belongs to, from whichever side it comes.
    fn flow_of(&self, segment: &Received) -> Option<FlowId> {
        let Tuple {
            src,
            dst,
            src_port,
            dst_port,
        } = segment.tuple;
        let side = if let Some(service) = self.director.service(dst, dst_port) {
            SideKey::client(src, src_port, service.id)
        } else {
            SideKey::target(dst, dst_port, self.director.target(src, src_port)?)
        };
        self.table.find(side)
    }

    /// Sends a frame through an interface.
    pub(super) fn transmit(&mut self, ifindex: u32, frame: &[u8]) {
        let taken = self.links.send(ifindex, frame);
        let counter = if taken {
            &self.stats.sent
        } else {
            &self.stats.send_failed
        };
        counter.count();
    }

    /// Sends a RST to both ends of a flow, as far as it is known what they would take and how to
    /// reach them.
    fn reset(&mut self, flow: &Flow) {
        for side in [Side::Client, Side::Backend] {
            self.speak(flow, side, reaper::reset);
        }
    }

    /// Asks an end of a flow whether it is still there. The data path sees the answer.
    pub(super) fn probe(&mut self, flow: &Flow, side: Side) {
        self.stats.probes.count();
        self.speak(flow, side, reaper::probe);
    }

    /// Sends an end of a flow what the other end would send.
    fn speak(
        &mut self,
        flow: &Flow,
        side: Side,
        what: fn(&Flow, Side, Place, Place) -> Option<Spoken>,
    ) {
        let service = self.known.get(&flow.service);
        let service = service.map(|service| (service.addr, service.port));
        let target = self.director.directory().target_address(flow.target);
        let (Some(service), Some(target)) = (service, target) else {
            return;
        };
        let hop = match side {
            Side::Client => Some(flow.hop),
            Side::Backend => self.director.hop(flow.target),
        };
        match (hop, what(flow, side, service, target)) {
            (Some(hop), Some(spoken)) => self.send(&outgoing(hop, &spoken)),
            _ => self.stats.send_failed.count(),
        }
    }
}

fn outgoing(hop: Hop, spoken: &Spoken) -> Outgoing {
    let family = if spoken.tuple.src.to_ip().is_ipv4() {
        Family::V4
    } else {
        Family::V6
    };
    Outgoing {
        hop,
        family,
        tuple: spoken.tuple,
        seq: spoken.seq,
        ack: spoken.ack,
        flags: spoken.flags,
        window: 0,
        options: TcpOptions::default(),
    }
}

impl World for Realm {
    type Flows = Table<Mapped>;

    fn flows(&self) -> &Self::Flows {
        &self.table
    }

    fn flows_mut(&mut self) -> &mut Self::Flows {
        &mut self.table
    }

    fn service(&self, addr: Addr, port: u16) -> Option<Service> {
        self.director.service(addr, port)
    }

    fn target(&self, addr: Addr, port: u16) -> Option<u16> {
        self.director.target(addr, port)
    }

    fn choose(&mut self, service: u16, client: Addr, tried: BackendSet) -> Option<Choice> {
        let usage = self.table.usage();
        self.director.choose(
            service,
            client,
            tried,
            |service| usage.connections_of_service(service),
            |target| usage.connections_of_target(target),
        )
    }

    fn source(
        &mut self,
        service: u16,
        choice: &Choice,
        client: (Addr, u16),
        probe: u8,
    ) -> Option<(Addr, u16)> {
        self.director.source(service, choice, client, probe)
    }

    fn hop(&mut self, target: u16) -> Option<Hop> {
        self.director.hop(target)
    }

    fn send(&mut self, segment: &Outgoing) {
        let mut frame = [0; FRAME_MAX];
        let len = segment.emit(&mut frame);
        self.transmit(segment.hop.ifindex, &frame[..len]);
    }

    fn attempted(&mut self, service: u16, choice: &Choice, result: Result<(), ConnectError>) {
        self.director.attempted(service, choice, result, self.now);
    }

    fn ended(&mut self, service: u16, outcome: Outcome, waited_ms: u64) {
        self.director.ended(service, outcome, waited_ms);
    }

    fn notice(&mut self, service: u16, notice: Notice) {
        self.director.notice(service, notice);
    }
}
