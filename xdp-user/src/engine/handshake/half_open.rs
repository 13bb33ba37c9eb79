//! Handshakes in progress: the half-open queue towards the targets.

use slab::Slab;
use xdp_common::tuple::Addr;

use super::{
    client::Client,
    effects::{Choice, FlowId, Service},
};
use crate::engine::{Tick, balancer::BackendSet};

/// A client that waits for a target.
#[derive(Clone, Copy, Debug)]
pub(super) struct HalfOpen {
    pub(super) client: Client,
    pub(super) service: Service,
    /// When its cookie came back.
    pub(super) since: Tick,
    /// The targets that were tried.
    pub(super) tried: Tried,
    /// The one that is being tried.
    pub(super) attempt: Attempt,
}

/// Targets that were tried.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tried {
    /// Their positions.
    pub(super) positions: BackendSet,
    /// How many they are.
    pub(super) count: u8,
}

/// A target that is being tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pub(super) flow: FlowId,
    pub(super) choice: Choice,
    /// Address and port that the target sees.
    pub(super) source: (Addr, u16),
    /// When the target must have answered.
    pub(super) deadline: Tick,
    /// How long to wait after the next SYN, milliseconds.
    pub(super) wait_ms: u32,
    /// Whether a SYN has left.
    pub(super) sent: bool,
    /// Whether the target has had another connection in mind.
    pub(super) mistaken: bool,
}

/// All of them, by key: a small number that stays the same while targets are tried.
#[derive(Debug)]
pub(super) struct Queue {
    entries: Slab<HalfOpen>,
    bound: usize,
    /// Key and one by the number of the flow; 0 for a flow that is none of these.
    by_flow: Vec<u32>,
    /// Depth by service.
    by_service: Vec<u32>,
}

impl Queue {
    /// An empty one with `bound` places.
    pub(super) const fn new(bound: u32) -> Self {
        Self {
            entries: Slab::new(),
            bound: bound as usize,
            by_flow: Vec::new(),
            by_service: Vec::new(),
        }
    }

    /// Whether a client of the service finds a place.
    pub(super) fn has_room(&self, service: &Service) -> bool {
        self.entries.len() < self.bound && self.depth(service.id) < service.half_open_max
    }

    /// Takes a place; its key.
    pub(super) fn insert(&mut self, entry: HalfOpen) -> u32 {
        let key = self.entries.insert(entry) as u32;
        self.bind(entry.attempt.flow, key);
        let service = usize::from(entry.service.id);
        if self.by_service.len() <= service {
            self.by_service.resize(service + 1, 0);
        }
        self.by_service[service] += 1;
        key
    }

    /// Gives a place back.
    pub(super) fn remove(&mut self, key: u32) -> Option<HalfOpen> {
        let entry = self.entries.try_remove(key as usize)?;
        self.unbind(entry.attempt.flow);
        self.by_service[usize::from(entry.service.id)] -= 1;
        Some(entry)
    }

    /// Goes on to another target.
    pub(super) fn replace(&mut self, key: u32, entry: HalfOpen) {
        if let Some(old) = self.entries.get_mut(key as usize) {
            let flow = std::mem::replace(old, entry).attempt.flow;
            self.unbind(flow);
            self.bind(entry.attempt.flow, key);
        }
    }

    pub(super) fn get_mut(&mut self, key: u32) -> Option<&mut HalfOpen> {
        self.entries.get_mut(key as usize)
    }

    /// Who waits behind a flow.
    pub(super) fn key(&self, flow: FlowId) -> Option<u32> {
        self.by_flow.get(flow.0 as usize)?.checked_sub(1)
    }

    /// Handshakes of a service in progress.
    pub(super) fn depth(&self, service: u16) -> u32 {
        let depth = self.by_service.get(usize::from(service));
        depth.copied().unwrap_or(0)
    }

    /// When the oldest of a service began.
    pub(super) fn oldest(&self, service: u16) -> Option<Tick> {
        let of_service = |(_, entry): &(usize, &HalfOpen)| entry.service.id == service;
        let since = self.entries.iter().filter(of_service);
        since.map(|(_, entry)| entry.since).min()
    }

    fn bind(&mut self, flow: FlowId, key: u32) {
        let flow = flow.0 as usize;
        if self.by_flow.len() <= flow {
            self.by_flow.resize(flow + 1, 0);
        }
        self.by_flow[flow] = key + 1;
    }

    fn unbind(&mut self, flow: FlowId) {
        self.by_flow[flow.0 as usize] = 0;
    }
}
