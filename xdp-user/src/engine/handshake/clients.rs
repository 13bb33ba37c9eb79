//! Segments from clients.

use xdp_common::{
    splice::{flow::Flow, index::SideKey},
    wire::tcp::Kind,
};

use super::{
    Handshakes,
    client::Client,
    effects::{Flows as _, Service, World},
    outcome::{Notice, Outcome},
    received::Received,
    segments,
};
use crate::engine::Tick;

impl Handshakes {
    /// Judges a segment to a service; `false` if nobody waits for it.
    pub(super) fn client_sent(
        &mut self,
        now: Tick,
        segment: &Received,
        service: &Service,
        world: &mut impl World,
    ) -> bool {
        let tuple = &segment.tuple;
        let side = SideKey::client(tuple.src, tuple.src_port, service.id);
        let Some(flow) = world.flows().find(side) else {
            return self.newcomer(now, segment, service, world);
        };
        if let Some(key) = self.queue.key(flow) {
            return self.waiting_client(now, key, segment, service, world);
        }
        let old = world.flows().get(flow);
        let Some(client) = self.successor(segment, service, &old) else {
            return false;
        };
        world.flows_mut().close(flow);
        world.notice(service.id, Notice::FlowReused);
        self.start(now, client, service, world);
        true
    }

    /// A segment of no flow: the first one of a client that returns its cookie.
    fn newcomer(
        &mut self,
        now: Tick,
        segment: &Received,
        service: &Service,
        world: &mut impl World,
    ) -> bool {
        let Some(client) = self.proven(segment, service) else {
            return false;
        };
        self.start(now, client, service, world);
        true
    }

    /// The client of a new connection that takes the place of `old`, which is over. A late copy of
    /// the segment that opened the old one holds a valid cookie as well.
    fn successor(&self, segment: &Received, service: &Service, old: &Flow) -> Option<Client> {
        if !old.is_over() {
            return None;
        }
        self.proven(segment, service)
            .filter(|client| client.isn != old.client_isn)
    }

    fn proven(&self, segment: &Received, service: &Service) -> Option<Client> {
        if segment.kind != Kind::Ack {
            return None;
        }
        Client::proven(segment, service, &self.keys)
    }

    /// A segment of a client that waits for a target.
    fn waiting_client(
        &mut self,
        now: Tick,
        key: u32,
        segment: &Received,
        service: &Service,
        world: &mut impl World,
    ) -> bool {
        let Some(entry) = self.queue.get_mut(key) else {
            return false;
        };
        let client = &mut entry.client;
        match segment.kind {
            // Nothing is acknowledged to the client before its window is open, so there is one
            // number that its RST can have (RFC 5961 3.2).
            Kind::Rst if segment.seq == client.next() => {
                self.end(now, key, Outcome::ClientReset, world);
            }
            // A late copy of the SYN that the cookie answered.
            Kind::Syn if segment.seq == client.isn => {}
            Kind::Syn => {
                world.send(&segments::challenge(client));
                world.notice(service.id, Notice::SynChallenged);
            }
            Kind::Ack if client.is_of(segment) => client.refresh(segment),
            Kind::Ack => {
                // The client has given up this handshake, and its RST was lost.
                let Some(successor) = self.proven(segment, service) else {
                    return false;
                };
                self.end(now, key, Outcome::Superseded, world);
                self.start(now, successor, service, world);
            }
            Kind::Rst | Kind::SynAck => return false,
        }
        true
    }
}
