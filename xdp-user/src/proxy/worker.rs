//! A worker: one thread with its own event loop, listeners and connections.

mod admission;
mod commands;

use std::{
    cell::{Cell, RefCell, RefMut},
    collections::HashMap,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use slab::Slab;
use socket2::Socket;
use tokio::{
    io::unix::AsyncFd,
    sync::oneshot,
    task::{self, JoinHandle},
    time,
};

use super::{
    deadlines::Deadlines,
    hosted::{Hosted, Hosting},
    info::{Filter, Listing},
    listener::Reserve,
    pipe::{Pipe, PipePool},
    shared::Shared,
    slot::{Signal, Slot},
    stats::WorkerStats,
};
use crate::engine::{Tick, wheel::MOVES_MAX};

/// Size of the buffer that all connections of a worker read into, bytes.
pub(super) const SCRATCH_LEN: usize = 64 << 10;

/// How long a listener goes on that is no longer wanted: clients that hold a cookie of this moment
/// are on their way.
const RETIRE_GRACE: Duration = Duration::from_millis(500);

/// Between two looks at what changes slowly.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Between two messages about failed accepts.
const LOG_PAUSE: Duration = Duration::from_secs(60);

/// What a worker is asked to do. Only the controller sends, and waits for answers, so the queue
/// holds a handful.
pub(super) enum Command {
    /// Serve the clients of a new service.
    Serve(Hosting, Socket),
    /// Serve the clients of a known service, by its address, as configured now.
    Replace(Hosting),
    /// Serve no new clients at this address.
    Retire(SocketAddr),
    /// List connections, at most so many.
    List(Filter, usize, oneshot::Sender<Listing>),
    /// End connections, and tell how many.
    Kill(Filter, oneshot::Sender<u64>),
    /// Accept who waits, close the listeners, and tell when that is done.
    Drain(oneshot::Sender<()>),
    /// Reset all connections: the time that a stop gives is over.
    DrainExpired,
}

/// A service whose clients are accepted.
#[derive(Debug)]
struct Accepting {
    hosted: Rc<Hosted>,
    /// To change its options.
    socket: Rc<AsyncFd<Socket>>,
    task: JoinHandle<()>,
}

/// What the tasks of one worker share.
#[derive(Debug)]
pub(super) struct Worker {
    index: u16,
    start: Instant,
    stats: Arc<WorkerStats>,
    slots: RefCell<Slab<Rc<Slot>>>,
    serial: Cell<u32>,
    scratch: RefCell<Box<[u8]>>,
    pipes: RefCell<PipePool>,
    /// Bytes that wait for slow receivers.
    buffered: Cell<u64>,
    services: RefCell<HashMap<SocketAddr, Accepting>>,
    deadlines: Deadlines,
    draining: Cell<bool>,
    reserve: RefCell<Reserve>,
    accept_error_logged: Cell<Option<Instant>>,
    shared: Arc<Shared>,
}

impl Worker {
    /// Worker number `index` of a proxy that started at `start`.
    pub(super) fn new(
        index: u16,
        start: Instant,
        stats: Arc<WorkerStats>,
        shared: Arc<Shared>,
    ) -> Self {
        let mut reserve = Reserve::default();
        reserve.fill();
        Self {
            index,
            start,
            stats,
            slots: RefCell::default(),
            serial: Cell::new(0),
            scratch: RefCell::new(vec![0; SCRATCH_LEN].into()),
            pipes: RefCell::new(PipePool::new(shared.pipes_max)),
            buffered: Cell::new(0),
            services: RefCell::default(),
            deadlines: Deadlines::default(),
            draining: Cell::new(false),
            reserve: RefCell::new(reserve),
            accept_error_logged: Cell::new(None),
            shared,
        }
    }

    /// The time.
    pub(super) fn now(&self) -> Tick {
        Tick::of(self.start.elapsed())
    }

    /// The buffer that all connections read into. Whoever uses it leaves nothing in it.
    pub(super) fn scratch(&self) -> RefMut<'_, Box<[u8]>> {
        self.scratch.borrow_mut()
    }

    /// Counts bytes that wait for slow receivers; below 0, that no longer wait.
    pub(super) fn buffered(&self, change: i64) {
        if change != 0 {
            let buffered = self.buffered.get().saturating_add_signed(change);
            self.buffered.set(buffered);
            self.stats.buffered_bytes.add(change);
        }
    }

    /// Whether as many bytes wait as may; counts that.
    pub(super) fn is_buffer_full(&self) -> bool {
        let full = self.buffered.get() >= self.shared.buffer_bytes_max;
        if full {
            self.stats.buffer_full.count();
        }
        full
    }

    /// An empty pipe, if there is one.
    pub(super) fn take_pipe(&self) -> Option<Pipe> {
        self.pipes.borrow_mut().take(&self.stats)
    }

    /// Takes a pipe back.
    pub(super) fn put_pipe(&self, pipe: Pipe) {
        self.pipes.borrow_mut().put(pipe, &self.stats);
    }

    /// What it counts.
    pub(super) fn stats(&self) -> &WorkerStats {
        &self.stats
    }

    /// The descriptor for when there is no other.
    pub(super) fn reserve(&self) -> RefMut<'_, Reserve> {
        self.reserve.borrow_mut()
    }

    /// What all workers share.
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Its number.
    pub(super) const fn index(&self) -> u16 {
        self.index
    }

    /// The connection in a slot has lost its place in the half-open queue.
    pub(super) fn evict(&self, key: u32) {
        if let Some(slot) = self.slots.borrow().get(key as usize) {
            slot.evict();
        }
    }

    /// Does what has to be done from time to time. Never ends.
    pub(super) async fn look_around(self: Rc<Self>) {
        loop {
            time::sleep(LOOK_PAUSE).await;
            let now = self.now();
            for accepting in self.services.borrow().values() {
                accepting.hosted.tell_age(now, self.index);
            }
            // One is enough for what all share.
            if self.index == 0 {
                self.shared.sweep(now);
            }
            self.reserve.borrow_mut().fill();
        }
    }

    /// Deadlines of this worker's connections.
    pub(super) const fn deadlines(&self) -> &Deadlines {
        &self.deadlines
    }

    /// Wakes connections when their time has come. Never ends.
    pub(super) async fn watch_deadlines(self: Rc<Self>) {
        let mut expired = Vec::with_capacity(MOVES_MAX);
        loop {
            self.deadlines.reached(|| self.now()).await;
            let began = Instant::now();
            let more = self.deadlines.take(self.now(), &mut expired);
            for key in expired.drain(..) {
                self.stats.wheel_fired.count();
                if let Some(slot) = self.slots.borrow().get(key as usize) {
                    slot.signal(Signal::Timer);
                }
            }
            let busy = began.elapsed().as_micros();
            self.stats.wheel_busy_us.add(busy as u64);
            if more {
                task::yield_now().await;
            }
        }
    }
}
