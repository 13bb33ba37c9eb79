//! The table of spliced connections, over the memory that it shares with the data path.
//!
//! One thread owns a [`Table`] and is the only one that enters and removes flows; programs in the
//! kernel find them, translate by them, and note in them what they have seen. Order makes that safe
//! without locks: a flow is complete before the index leads to it, its translation is complete
//! before it is open, and its number rests before another connection gets it.

mod adopt;
mod cells;
mod free;
mod index;
pub mod memory;
#[cfg(test)]
mod tests;

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use xdp_common::{
    abi::SERVICES_MAX,
    splice::{
        flow::{CLIENT, Flow, STATE_FREE, STATE_OPEN, STATE_PENDING, TARGET, TARGETS_MAX},
        index::SideKey,
    },
};

pub use self::{adopt::Adoption, free::REST_MS, memory::Memory};
use self::{
    free::FreeNumbers,
    index::{Index, Layout},
};
use crate::engine::{
    Tick,
    handshake::effects::{FlowId, Flows, OpenError, Translation},
};

/// The table, for its one writer.
#[derive(Debug)]
pub struct Table<M> {
    memory: M,
    layout: Layout,
    free: FreeNumbers,
    now: Tick,
    clock_s: u32,
    counts: Counts,
    usage: Arc<Usage>,
}

/// How many flows services and targets have, pending ones included: whoever has some keeps its
/// number. Written by the table's thread, read by any.
#[derive(Debug)]
pub struct Usage {
    services: Box<[AtomicU32]>,
    targets: Box<[AtomicU32]>,
    /// Of these, those that were over when they were last looked at.
    services_over: Box<[AtomicU32]>,
    targets_over: Box<[AtomicU32]>,
}

impl Usage {
    fn new() -> Self {
        let zeroes = |count: u32| (0..count).map(|_| AtomicU32::new(0)).collect();
        Self {
            services: zeroes(SERVICES_MAX),
            targets: zeroes(TARGETS_MAX),
            services_over: zeroes(SERVICES_MAX),
            targets_over: zeroes(TARGETS_MAX),
        }
    }

    /// Flows of the service with this id.
    #[must_use]
    pub fn of_service(&self, service: u16) -> u32 {
        get(&self.services, service)
    }

    /// Connections of that service: its flows without those that are only there for late segments,
    /// as far as these have been looked at.
    #[must_use]
    pub fn connections_of_service(&self, service: u16) -> u32 {
        let over = get(&self.services_over, service);
        self.of_service(service).saturating_sub(over)
    }

    /// Flows of the target in this slot.
    #[must_use]
    pub fn of_target(&self, target: u16) -> u32 {
        get(&self.targets, target)
    }

    /// The same for the target in this slot.
    #[must_use]
    pub fn connections_of_target(&self, target: u16) -> u32 {
        let over = get(&self.targets_over, target);
        self.of_target(target).saturating_sub(over)
    }

    /// Tells how many flows of each service and each target are over.
    pub fn set_over(&self, services: impl Iterator<Item = u32>, targets: &[u32]) {
        for (over, count) in self.services_over.iter().zip(services) {
            over.store(count, Relaxed);
        }
        for (over, count) in self.targets_over.iter().zip(targets) {
            over.store(*count, Relaxed);
        }
    }

    fn count(&self, flow: &Flow, change: i32) {
        let change = change.cast_unsigned();
        self.services[usize::from(flow.service)].fetch_add(change, Relaxed);
        self.targets[usize::from(flow.target)].fetch_add(change, Relaxed);
    }
}

fn get(counts: &[AtomicU32], position: u16) -> u32 {
    let count = counts.get(usize::from(position));
    count.map_or(0, |count| count.load(Relaxed))
}

/// What a table holds, and what it refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Flows that the data path forwards.
    pub open: u32,
    /// Flows whose target has not answered yet.
    pub pending: u32,
    /// New flows refused because no number was free.
    pub full: u64,
    /// New flows refused because both buckets of one side were full.
    pub no_room: u64,
}

impl<M: Memory> Table<M> {
    /// Tells the time: to be called before what happens then. `clock_s` is that of
    /// [`Control`](xdp_common::abi::Control::clock_s).
    pub fn set_time(&mut self, now: Tick, clock_s: u32) {
        self.now = now;
        self.clock_s = clock_s;
    }

    /// What it holds.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Flows that it can hold, those included that ended less than [`REST_MS`] ago.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.memory.flows().len() as u32 - 1
    }

    /// How many flows each service and target has.
    #[must_use]
    pub const fn usage(&self) -> &Arc<Usage> {
        &self.usage
    }

    /// Takes an open flow back from the data path, which hands over its packets again.
    ///
    /// # Panics
    /// Panics when it is not open.
    pub fn withdraw(&mut self, id: FlowId) {
        let cells = &self.memory.flows()[id.0 as usize];
        assert_eq!(cells::state(cells), STATE_OPEN, "{id:?} is not open");
        cells::write_state(cells, STATE_PENDING);
        self.counts.open -= 1;
        self.counts.pending += 1;
    }

    /// The first number that no flow has ever had: where a scan may end.
    #[must_use]
    pub const fn end(&self) -> u32 {
        self.free.fresh()
    }

    /// Shows the flows with numbers in `range` that are pending or open.
    pub fn scan(&self, range: std::ops::Range<u32>, mut each: impl FnMut(FlowId, &Flow)) {
        let flows = self.memory.flows();
        let end = (range.end as usize).min(flows.len());
        let start = (range.start as usize).min(end);
        for (cells, number) in flows[start..end].iter().zip(range.start..) {
            if cells::state(cells) != STATE_FREE {
                each(FlowId(number), &cells::load(cells));
            }
        }
    }

    fn index(&self) -> Index<'_> {
        Index::new(&self.memory, self.layout)
    }

    fn enter(&self, flow: &Flow, number: u32) -> Result<(), OpenError> {
        let index = self.index();
        let [client, target] = cells::keys_of(flow);
        cells::write_pending(&index.flows[number as usize], flow);
        let entered = index.insert(client, number).and_then(|()| {
            let entered = index.insert(target, number);
            entered.inspect_err(|_| index.remove(client, number))
        });
        entered.map_err(|index::NoRoom| {
            cells::write_state(&index.flows[number as usize], STATE_FREE);
            OpenError::NoRoom
        })
    }

    /// Counts a flow in, or out.
    fn count(&mut self, flow: &Flow, change: i32) {
        let count = match flow.state {
            STATE_OPEN => &mut self.counts.open,
            _ => &mut self.counts.pending,
        };
        *count = count.wrapping_add_signed(change);
        self.usage.count(flow, change);
    }
}

impl<M: Memory> Flows for Table<M> {
    fn find(&self, side: SideKey) -> Option<FlowId> {
        self.index().find(side).map(FlowId)
    }

    fn open(&mut self, flow: &Flow) -> Result<FlowId, OpenError> {
        assert!(is_in_bounds(flow), "service or target: {flow:?}");
        let [client, target] = cells::keys_of(flow);
        let index = self.index();
        if let Some(number) = index.find(client) {
            return Err(OpenError::ClientInUse(FlowId(number)));
        }
        if let Some(number) = index.find(target) {
            return Err(OpenError::TargetInUse(FlowId(number)));
        }
        let Some(number) = self.free.take(self.now) else {
            self.counts.full += 1;
            return Err(OpenError::Full);
        };
        if let Err(error) = self.enter(flow, number) {
            self.counts.no_room += 1;
            // A reader may have found the client's side while it was there.
            self.free.give(self.now, number);
            return Err(error);
        }
        let state = STATE_PENDING;
        self.count(&Flow { state, ..*flow }, 1);
        Ok(FlowId(number))
    }

    fn get(&self, id: FlowId) -> Flow {
        cells::load(&self.memory.flows()[id.0 as usize])
    }

    fn establish(&mut self, id: FlowId, translation: &Translation) {
        let cells = &self.memory.flows()[id.0 as usize];
        assert_eq!(cells::state(cells), STATE_PENDING, "{id:?} is not pending");
        cells::write_open(cells, translation, self.clock_s);
        self.counts.pending -= 1;
        self.counts.open += 1;
    }

    fn close(&mut self, id: FlowId) {
        let flow = self.get(id);
        assert_ne!(flow.state, STATE_FREE, "{id:?} is closed already");
        let index = self.index();
        cells::write_state(&index.flows[id.0 as usize], STATE_FREE);
        let keys = cells::keys_of(&flow);
        index.remove(keys[CLIENT], id.0);
        index.remove(keys[TARGET], id.0);
        self.free.give(self.now, id.0);
        self.count(&flow, -1);
    }
}

/// Whether a flow's service and target are ones that there can be.
fn is_in_bounds(flow: &Flow) -> bool {
    u32::from(flow.service) < SERVICES_MAX && u32::from(flow.target) < TARGETS_MAX
}
