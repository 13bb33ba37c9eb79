//! The proxy's driver over simulated links: what the real one does with sockets, in single steps
//! of random order and size.

use std::collections::VecDeque;

use super::{
    model::Model,
    net::{End, Fault, Link, Random, Read},
    peer::Peer,
};
use crate::engine::{
    Tick,
    connection::{Connection, Event, Phase},
    reason::{CloseReason, ConnectError},
    tcp::Side,
};

/// What is held of one direction.
#[derive(Debug)]
struct Copying {
    buffer: VecDeque<u8>,
    capacity: usize,
    eof: bool,
    fin_told: bool,
}

/// A connection, its peers, and what is known about it besides the engine.
#[derive(Debug)]
pub(super) struct Proxied {
    pub(super) serial: u64,
    pub(super) retries: u8,
    pub(super) engine: Connection,
    pub(super) model: Model,
    /// By `Side::index`; the backend's while it is connected.
    pub(super) links: [Option<(Link, Peer)>; 2],
    /// When the connect in progress will have what result; `None` for connected.
    pub(super) connect: Option<(Tick, Option<ConnectError>)>,
    /// What it was before the last event.
    pub(super) deadline_before: Option<(Tick, CloseReason)>,
    pub(super) flushed: bool,
    pub(super) spoke: bool,
    copying: [Copying; 2],
    fault_told: [bool; 2],
    unsent_seen: usize,
}

impl Proxied {
    pub(super) fn new(
        random: &mut Random,
        now: Tick,
        serial: u64,
        retries: u8,
        header: bool,
    ) -> Self {
        let capacity = random.of(&[1, 3, 32]);
        let copying = || Copying {
            buffer: VecDeque::new(),
            capacity,
            eof: false,
            fin_told: false,
        };
        let client = Peer::new(random, 2 * serial, 2 * serial + 1);
        Self {
            serial,
            retries,
            engine: Connection::new(now, retries),
            model: Model::new(now, header),
            links: [Some((Link::new(random), client)), None],
            connect: None,
            deadline_before: None,
            flushed: false,
            spoke: false,
            copying: [copying(), copying()],
            fault_told: [false; 2],
            unsent_seen: 0,
        }
    }

    pub(super) fn link(&mut self, side: Side) -> Option<&mut Link> {
        self.links[side.index()].as_mut().map(|(link, _)| link)
    }

    /// The network or one of the peers does something.
    pub(super) fn outside(&mut self, random: &mut Random) {
        let side = random.of(&Side::ALL);
        let what = random.below(4);
        self.happens(random, side, what);
    }

    /// The network and the peers do all that they still can.
    pub(super) fn settle(&mut self, random: &mut Random) {
        let mut moving = true;
        while moving {
            moving = false;
            for side in Side::ALL {
                for what in 0..4 {
                    moving |= self.happens(random, side, what);
                }
            }
        }
    }

    /// One thing of four. Returns whether it changed anything.
    fn happens(&mut self, random: &mut Random, side: Side, what: u64) -> bool {
        let Some((link, peer)) = &mut self.links[side.index()] else {
            return false;
        };
        match what {
            0 => link.deliver(random, End::Peer),
            1 => link.deliver(random, End::Proxy),
            2 => peer.read(random, link),
            _ => peer.write(random, link),
        }
    }

    /// The proxy does one thing. Returns what to tell the engine.
    pub(super) fn poll(&mut self, random: &mut Random, now: Tick) -> Option<Event> {
        match self.engine.phase() {
            Phase::Header => self.poll_header(random, now),
            Phase::Connecting => self.poll_connecting(random, now),
            Phase::Open => {
                let side = random.of(&Side::ALL);
                match random.below(8) {
                    0 => self.fault(side, now),
                    1 => self.fin_acked(side),
                    2 => self.fin_seen(side, now),
                    _ => self.copy(random, side, now),
                }
            }
            Phase::Resetting(to) => self.poll_resetting(random, to, now),
            Phase::Waiting | Phase::Closed => panic!("{self:?} is polled"),
        }
    }

    fn poll_header(&mut self, random: &mut Random, now: Tick) -> Option<Event> {
        match random.below(60) {
            0 => Some(Event::HeaderInvalid),
            1 => Some(Event::Fin(Side::Client)),
            2..20 => {
                self.model.header = false;
                self.model.header_done = now;
                Some(Event::Header)
            }
            _ => None,
        }
    }

    fn poll_connecting(&mut self, random: &mut Random, now: Tick) -> Option<Event> {
        if random.one_in(4)
            && let Some(event) = self.fault(Side::Client, now)
        {
            return Some(event);
        }
        match self.connect {
            Some((at, error)) if at <= now => {
                self.connect = None;
                self.model.connect_since = None;
                Some(match error {
                    Some(error) => Event::ConnectFailed(error),
                    None => {
                        let peer = Peer::new(random, 2 * self.serial + 1, 2 * self.serial);
                        self.links[Side::Backend.index()] = Some((Link::new(random), peer));
                        self.model.connected = Some(now);
                        Event::Connected
                    }
                })
            }
            _ => {
                let client = self.link(Side::Client)?;
                self.spoke |= client.unread() > 0;
                None
            }
        }
    }

    fn poll_resetting(&mut self, random: &mut Random, to: Side, now: Tick) -> Option<Event> {
        let from = to.other();
        match random.below(16) {
            0 => return self.fault(to, now),
            // The one that is known to be broken is told again.
            1 => {
                let unsent = self.on_the_way(from);
                return Some(Event::Reset { side: from, unsent });
            }
            _ => {}
        }
        if let Some(event) = self.copy(random, from, now) {
            return Some(event);
        }
        let unsent = self.unsent(to);
        if unsent < self.unsent_seen {
            self.touch(now);
        }
        self.unsent_seen = unsent;
        (!self.on_the_way(from)).then(|| {
            self.flushed = true;
            Event::Flushed(to)
        })
    }

    fn touch(&mut self, now: Tick) {
        self.engine.touch(now);
        self.model.last_byte = Some(now);
    }

    /// Copies a little from this side to the other.
    fn copy(&mut self, random: &mut Random, from: Side, now: Tick) -> Option<Event> {
        let [client, backend] = &mut self.links;
        let (source, target) = match from {
            Side::Client => (client, backend),
            Side::Backend => (backend, client),
        };
        let (source, target) = (&mut source.as_mut()?.0, &mut target.as_mut()?.0);
        let copying = &mut self.copying[from.index()];
        let room = copying.capacity - copying.buffer.len();
        if random.one_in(2) && room > 0 && !copying.eof {
            match source.read(End::Proxy, 1 + random.below(room as u64) as usize) {
                Read::Bytes(bytes) => copying.buffer.extend(bytes),
                Read::Eof => copying.eof = true,
                Read::Broken(_) => return self.fault(from, now),
                Read::Blocked => {}
            }
        } else if !copying.buffer.is_empty() {
            match target.write(End::Proxy, copying.buffer.make_contiguous()) {
                Ok(0) => {}
                Ok(n) => {
                    copying.buffer.drain(..n);
                    self.touch(now);
                }
                Err(_) => return self.fault(from.other(), now),
            }
        }
        let copying = &mut self.copying[from.index()];
        let done = copying.eof && copying.buffer.is_empty() && !copying.fin_told;
        if !done || self.engine.phase() != Phase::Open {
            return None;
        }
        copying.fin_told = true;
        self.fin_in(from, now);
        Some(Event::Fin(from))
    }

    /// Looks whether the peer's FIN is there, which may be long before it is read.
    fn fin_seen(&mut self, side: Side, now: Tick) -> Option<Event> {
        if !self.link(side)?.fin_arrived() {
            return None;
        }
        self.fin_in(side, now);
        Some(Event::FinReceived(side))
    }

    fn fin_in(&mut self, side: Side, now: Tick) {
        let number = self.model.next();
        let history = &mut self.model.sides[side.index()];
        if history.fin_in.is_none() {
            history.fin_in = Some(number);
            self.model.last_fin = Some(now);
        }
    }

    fn fin_acked(&mut self, side: Side) -> Option<Event> {
        if !self.link(side)?.fin_acked() {
            return None;
        }
        let number = self.model.next();
        self.model.sides[side.index()]
            .fin_acked
            .get_or_insert(number);
        Some(Event::FinAcked(side))
    }

    /// Looks whether this side is broken, and tells it once.
    fn fault(&mut self, side: Side, now: Tick) -> Option<Event> {
        let fault = self.link(side)?.fault(End::Proxy)?;
        if self.fault_told[side.index()] {
            return None;
        }
        self.fault_told[side.index()] = true;
        let unsent = self.on_the_way(side);
        self.model.sides[side.index()].broken = true;
        let event = match fault {
            Fault::Reset => Event::Reset { side, unsent },
            Fault::Error(kind) => Event::Error { side, kind, unsent },
        };
        if self.model.connected.is_some() {
            self.unsent_seen = self.unsent(side.other());
            let reason = Self::reason(fault, side);
            self.model.broken.get_or_insert((now, side, reason));
        }
        Some(event)
    }

    fn unsent(&mut self, to: Side) -> usize {
        self.link(to).map_or(0, |link| link.unsent())
    }

    /// Whether bytes of this side have not left the proxy yet.
    fn on_the_way(&mut self, from: Side) -> bool {
        let unread = self.link(from).map_or(0, |link| link.unread());
        let held = self.copying[from.index()].buffer.len();
        unread + held + self.unsent(from.other()) > 0
    }

    /// How a connection ends after this fault of this side.
    pub(super) fn reason(fault: Fault, side: Side) -> CloseReason {
        match (fault, side) {
            (Fault::Reset, Side::Client) => CloseReason::ClientReset,
            (Fault::Reset, Side::Backend) => CloseReason::BackendReset,
            (Fault::Error(kind), side) => kind.close_reason(side),
        }
    }
}
