//! A TCP connection as its two applications see it: bounded buffers, a FIN behind the bytes, and a
//! RST that takes along what its sender had not sent.

use std::collections::VecDeque;

pub(super) use super::random::Random;
use crate::engine::connection::LegError;

/// What a read gives.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    Bytes(Vec<u8>),
    Eof,
    Blocked,
    Broken(Fault),
}

/// Why a connection is broken, for one of its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Reset,
    Error(LegError),
}

/// One direction.
#[derive(Debug)]
struct Flow {
    capacity: usize,
    /// In the sender's socket.
    unsent: VecDeque<u8>,
    fin: bool,
    /// In the receiver's socket.
    arrived: VecDeque<u8>,
    fin_arrived: bool,
}

impl Flow {
    fn new(capacity: usize) -> Self {
        Self {
            capacity,
            unsent: VecDeque::new(),
            fin: false,
            arrived: VecDeque::new(),
            fin_arrived: false,
        }
    }
}

/// One end of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The client or the backend.
    Peer,
    /// levee.
    Proxy,
}

impl End {
    const fn other(self) -> Self {
        match self {
            Self::Peer => Self::Proxy,
            Self::Proxy => Self::Peer,
        }
    }
}

/// A connection between a peer and the proxy.
#[derive(Debug)]
pub(super) struct Link {
    /// By the `End` that sends.
    flows: [Flow; 2],
    /// By the `End` that sees it.
    faults: [Option<Fault>; 2],
    closed: [bool; 2],
    /// By the `End` that a RST is on its way to.
    reset_sent: [bool; 2],
    /// Bytes that came into the proxy's socket.
    pub(super) arrived_at_proxy: u64,
}

impl Link {
    pub(super) fn new(random: &mut Random) -> Self {
        let mut capacity = || random.of(&[1, 2, 7, 16, 64]);
        Self {
            flows: [Flow::new(capacity()), Flow::new(capacity())],
            faults: [None; 2],
            closed: [false; 2],
            reset_sent: [false; 2],
            arrived_at_proxy: 0,
        }
    }

    /// As `recv`: what arrived comes before any error, and after a FIN there is none.
    pub(super) fn read(&mut self, end: End, max: usize) -> Read {
        let flow = &mut self.flows[end.other() as usize];
        if !flow.arrived.is_empty() {
            let n = max.min(flow.arrived.len());
            return Read::Bytes(flow.arrived.drain(..n).collect());
        }
        match self.faults[end as usize] {
            _ if flow.fin_arrived => Read::Eof,
            Some(fault) => Read::Broken(fault),
            None => Read::Blocked,
        }
    }

    /// As `send`: how many bytes found room.
    pub(super) fn write(&mut self, end: End, bytes: &[u8]) -> Result<usize, Fault> {
        if let Some(fault) = self.faults[end as usize] {
            return Err(fault);
        }
        let flow = &mut self.flows[end as usize];
        assert!(!flow.fin, "write after a FIN");
        let n = bytes.len().min(flow.capacity - flow.unsent.len());
        flow.unsent.extend(&bytes[..n]);
        Ok(n)
    }

    /// As `shutdown(SHUT_WR)`.
    pub(super) fn fin(&mut self, end: End) {
        self.flows[end as usize].fin = true;
    }

    /// As `close` with a linger time of 0.
    pub(super) fn reset(&mut self, end: End) {
        if self.closed[end as usize] {
            return;
        }
        self.closed[end as usize] = true;
        let flow = &mut self.flows[end as usize];
        flow.unsent.clear();
        flow.fin = false;
        if self.faults[end as usize].is_none() {
            self.reset_sent[end.other() as usize] = true;
        }
    }

    /// As `close`: a FIN, or a RST where bytes were not read.
    pub(super) fn close(&mut self, end: End) {
        if self.closed[end as usize] {
            return;
        }
        if !self.flows[end.other() as usize].arrived.is_empty() {
            return self.reset(end);
        }
        self.closed[end as usize] = true;
        self.fin(end);
    }

    /// The network does something: moves some bytes of one direction, or delivers a FIN or a RST.
    /// Returns whether anything moved.
    pub(super) fn deliver(&mut self, random: &mut Random, from: End) -> bool {
        let to = from.other();
        if self.reset_sent[to as usize] {
            self.reset_sent[to as usize] = false;
            self.break_off(to, Fault::Reset);
            return true;
        }
        if self.faults[from as usize].is_some() {
            return false;
        }
        let gone = self.closed[to as usize] || self.faults[to as usize].is_some();
        if gone && !self.flows[from as usize].unsent.is_empty() {
            // Nobody will read this: the receiver's kernel forgets the connection, with a RST.
            self.break_off(to, Fault::Reset);
            self.break_off(from, Fault::Reset);
            return true;
        }
        let flow = &mut self.flows[from as usize];
        if !flow.unsent.is_empty() {
            let room = (flow.capacity - flow.arrived.len()).min(flow.unsent.len());
            let n = room.min(1 + random.below(flow.capacity as u64) as usize);
            flow.arrived.extend(flow.unsent.drain(..n));
            if to == End::Proxy {
                self.arrived_at_proxy += n as u64;
            }
            return n > 0;
        }
        let news = flow.fin && !flow.fin_arrived;
        flow.fin_arrived |= flow.fin;
        news
    }

    /// `end` learns that the connection is no more.
    pub(super) fn break_off(&mut self, end: End, fault: Fault) {
        self.faults[end as usize].get_or_insert(fault);
        self.flows[end as usize].unsent.clear();
    }

    /// As `SIOCOUTQNSD` at the proxy.
    pub(super) fn unsent(&self) -> usize {
        self.flows[End::Proxy as usize].unsent.len()
    }

    /// Bytes that the proxy has not read.
    pub(super) fn unread(&self) -> usize {
        self.flows[End::Peer as usize].arrived.len()
    }

    /// As `EPOLLRDHUP` at the proxy.
    pub(super) fn fin_arrived(&self) -> bool {
        self.flows[End::Peer as usize].fin_arrived
    }

    /// As `EPOLLERR`.
    pub(super) fn fault(&self, end: End) -> Option<Fault> {
        self.faults[end as usize]
    }

    /// Whether the proxy's FIN has reached the peer.
    pub(super) fn fin_acked(&self) -> bool {
        self.flows[End::Proxy as usize].fin_arrived
    }
}
