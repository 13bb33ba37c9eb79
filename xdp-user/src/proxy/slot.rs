//! What others see of a connection: its place at its worker.

mod view;

use std::{
    cell::{Cell, RefCell},
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    task::Waker,
};

use super::{
    deadlines::Deadlines,
    hosted::{Hosted, Hosting},
    info::ConnectionId,
    runtime::{ActiveGuard, BackendRuntime, ServiceRuntime},
};
use crate::engine::{
    Tick,
    connection::{Action, Actions, Connection, Event, Phase},
    half_open::Place,
    limits::Permit,
    tcp::{Side, TcpState},
};

/// Something that happened to a connection outside of its own sockets.
#[derive(Clone, Copy, Debug)]
pub(super) enum Signal {
    /// The wheel fired.
    Timer = 1,
    /// An operator ends it.
    Kill = 1 << 1,
    /// The half-open queue gave its place to another.
    Evict = 1 << 2,
    /// The proxy is being stopped.
    Drain = 1 << 3,
    /// The time that a stop gives is over.
    DrainExpired = 1 << 4,
}

impl Signal {
    const ALL: [Self; 5] = [
        Self::Timer,
        Self::Kill,
        Self::Evict,
        Self::Drain,
        Self::DrainExpired,
    ];

    const fn event(self) -> Event {
        match self {
            Self::Timer => Event::Timer,
            Self::Kill => Event::Killed,
            Self::Evict => Event::Evicted,
            Self::Drain => Event::Draining,
            Self::DrainExpired => Event::DrainExpired,
        }
    }
}

/// A place among a service's connections.
#[derive(Debug)]
pub(super) struct Admitted {
    /// Whose it is; nobody's for an upstream that speaks for itself.
    pub(super) client: Option<IpAddr>,
    /// Its place in the table of clients.
    pub(super) permit: Option<Permit>,
}

/// A connection, as its worker, its timer and its operator see it. Everything in it belongs to one
/// thread, and nothing stays borrowed when a function returns.
#[derive(Debug)]
pub(super) struct Slot {
    /// Its name.
    pub(super) id: ConnectionId,
    /// The service, as configured when the client was accepted.
    pub(super) hosting: Hosting,
    /// The service, as it is at this worker now.
    pub(super) hosted: Rc<Hosted>,
    /// When it was accepted.
    pub(super) accepted: Tick,
    /// Who the client is.
    pub(super) client: Cell<SocketAddr>,
    /// The upstream whose PROXY header told so.
    pub(super) via: Cell<Option<SocketAddr>>,
    engine: RefCell<Connection>,
    admitted: RefCell<Option<Admitted>>,
    backend: RefCell<Option<ActiveGuard>>,
    bytes: [Cell<u64>; 2],
    signals: Cell<u8>,
    /// The time that is set for it in the wheel.
    armed: Cell<Option<Tick>>,
    waker: RefCell<Option<Waker>>,
}

impl Slot {
    /// A client that was accepted.
    pub(super) fn new(
        id: ConnectionId,
        hosting: Hosting,
        hosted: Rc<Hosted>,
        client: SocketAddr,
        admitted: Option<Admitted>,
        now: Tick,
    ) -> Self {
        let engine = Connection::new(now, hosting.runtime.config.retries);
        let slot = Self {
            id,
            hosting,
            hosted,
            accepted: now,
            client: Cell::new(client),
            via: Cell::new(None),
            engine: RefCell::new(engine),
            admitted: RefCell::new(admitted),
            backend: RefCell::new(None),
            bytes: Default::default(),
            signals: Cell::new(0),
            armed: Cell::new(None),
            waker: RefCell::new(None),
        };
        slot.moved([TcpState::Closed; 2], slot.states());
        slot
    }

    /// The service, as configured when the client was accepted.
    pub(super) fn service(&self) -> &ServiceRuntime {
        &self.hosting.runtime
    }

    /// Notes the place among the service's connections.
    pub(super) fn set_admitted(&self, admitted: Admitted) {
        self.admitted.replace(Some(admitted));
    }

    /// The place among the service's connections, to be given back.
    pub(super) fn take_admitted(&self) -> Option<Admitted> {
        self.admitted.take()
    }

    /// Takes a place in the half-open queue. It counts for the service as it was when the client
    /// was accepted, which is also the one that it is given back to.
    pub(super) fn enter_half_open(&self, now: Tick, spoke: bool) -> Place {
        let place = self.hosted.enter_half_open(now, self.id.slot, spoke);
        if place != Place::Full {
            self.service().stats.half_open.add(1);
        }
        place
    }

    /// Gives the place in the half-open queue back, if it has one.
    pub(super) fn leave_half_open(&self, now: Tick) {
        if self.hosted.leave_half_open(now, self.id.slot) {
            self.service().stats.half_open.add(-1);
        }
    }

    /// Has lost the place in the half-open queue to another.
    pub(super) fn evict(&self) {
        self.service().stats.half_open.add(-1);
        self.signal(Signal::Evict);
    }

    /// Lets the engine decide, and counts what that changes.
    pub(super) fn handle(&self, now: Tick, event: Event) -> Actions {
        let before = self.states();
        let timeouts = &self.service().config.timeouts;
        let actions = self.engine.borrow_mut().handle(now, event, timeouts);
        self.moved(before, self.states());
        for action in actions {
            if let Action::CloseBoth(reason) = action {
                self.service().stats.closed[reason.index()].count();
                log::debug!(
                    "connection {} of {} from {}: {}",
                    self.id,
                    self.service().name,
                    self.client.get(),
                    reason.label()
                );
            }
        }
        actions
    }

    /// What it is about.
    pub(super) fn phase(&self) -> Phase {
        self.engine.borrow().phase()
    }

    /// When it ends unless something happens.
    pub(super) fn deadline(&self) -> Option<Tick> {
        let deadline = self
            .engine
            .borrow()
            .deadline(&self.service().config.timeouts);
        deadline.map(|(at, _)| at)
    }

    /// Sees to it that the wheel fires when the connection's time has come, or `within_ms` if there
    /// is that. Bytes move the deadline later without a word to the wheel, which then fires too
    /// early, and this is called again.
    pub(super) fn arm(&self, deadlines: &Deadlines, now: Tick, within_ms: Option<u64>) {
        let within = within_ms.map(|ms| now.after(ms));
        let due = self.deadline().into_iter().chain(within).min();
        let armed = self.armed.get();
        match due {
            Some(due) if armed.is_none_or(|armed| due < armed) => {
                deadlines.set(self.id.slot, due);
                self.armed.set(Some(due));
            }
            None if armed.is_some() => {
                deadlines.clear(self.id.slot);
                self.armed.set(None);
            }
            _ => {}
        }
    }

    /// Counts bytes of `from` that were passed on.
    pub(super) fn passed(&self, now: Tick, from: Side, bytes: usize) {
        self.engine.borrow_mut().touch(now);
        let bytes = bytes as u64;
        let passed = &self.bytes[from.index()];
        passed.set(passed.get() + bytes);
        self.service().stats.bytes[from.index()].add(bytes);
        if let Some(guard) = &*self.backend.borrow() {
            guard.backend().stats.bytes[from.index()].add(bytes);
        }
    }

    /// Puts the backend in its place, or takes it away.
    pub(super) fn set_backend(&self, backend: Option<ActiveGuard>) {
        self.backend.replace(backend);
    }

    /// The backend.
    pub(super) fn backend(&self) -> Option<Arc<BackendRuntime>> {
        let guard = self.backend.borrow();
        guard.as_ref().map(|guard| Arc::clone(guard.backend()))
    }

    /// Wakes the connection's task to look at `signal`.
    pub(super) fn signal(&self, signal: Signal) {
        self.signals.set(self.signals.get() | signal as u8);
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// What was signalled since the last call, as events. Further signals wake `waker`.
    pub(super) fn take_signals(&self, waker: &Waker) -> impl Iterator<Item = Event> + use<> {
        let mut known = self.waker.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
        let signals = self.signals.take();
        if signals & Signal::Timer as u8 != 0 {
            self.armed.set(None);
        }
        Signal::ALL
            .into_iter()
            .filter(move |signal| signals & *signal as u8 != 0)
            .map(Signal::event)
    }

    fn states(&self) -> [TcpState; 2] {
        let engine = self.engine.borrow();
        Side::ALL.map(|side| engine.state(side))
    }

    fn moved(&self, before: [TcpState; 2], after: [TcpState; 2]) {
        for side in Side::ALL {
            let (old, new) = (before[side.index()], after[side.index()]);
            if old == new {
                continue;
            }
            let gauges = &self.service().stats.states[side.index()];
            // CLOSED is no connection.
            if old != TcpState::Closed {
                gauges[old.index()].add(-1);
            }
            if new != TcpState::Closed {
                gauges[new.index()].add(1);
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Only a task that was dropped before its end leaves anything here to be counted.
        self.moved(self.states(), [TcpState::Closed; 2]);
    }
}
