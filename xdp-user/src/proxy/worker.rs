//! A worker: one thread with its own event loop, listeners and connections.

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
    io::{Interest, unix::AsyncFd},
    sync::{mpsc::UnboundedReceiver, oneshot},
    task::{self, JoinHandle, spawn_local},
    time,
};

use super::{
    connection::Serve,
    deadlines::Deadlines,
    info::{ConnectionId, Filter, Listing},
    leg::Leg,
    listener::Hosted,
    runtime::ServiceRuntime,
    slot::{Signal, Slot},
    stats::WorkerStats,
};
use crate::engine::{Tick, wheel::MOVES_MAX};

/// Size of the buffer that all connections of a worker read into, bytes.
pub(super) const SCRATCH_LEN: usize = 64 << 10;

/// How long a listener goes on that is no longer wanted: clients that hold a cookie of this moment
/// are on their way.
const RETIRE_GRACE: Duration = Duration::from_millis(500);

/// What a worker is asked to do. Only the controller sends, and waits for answers, so the queue
/// holds a handful.
pub(super) enum Command {
    /// Serve the clients of a new service.
    Serve(Arc<ServiceRuntime>, Socket),
    /// Serve the clients of a known service, by its address, as configured now.
    Replace(Arc<ServiceRuntime>),
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

/// A service and the task that accepts its clients.
type Accepting = (Rc<Hosted>, JoinHandle<()>);

/// What the tasks of one worker share.
#[derive(Debug)]
pub(super) struct Worker {
    index: u16,
    start: Instant,
    stats: Arc<WorkerStats>,
    slots: RefCell<Slab<Rc<Slot>>>,
    serial: Cell<u32>,
    scratch: RefCell<Box<[u8]>>,
    services: RefCell<HashMap<SocketAddr, Accepting>>,
    deadlines: Deadlines,
    draining: Cell<bool>,
}

impl Worker {
    /// Worker number `index` of a proxy that started at `start`.
    pub(super) fn new(index: u16, start: Instant, stats: Arc<WorkerStats>) -> Self {
        Self {
            index,
            start,
            stats,
            slots: RefCell::default(),
            serial: Cell::new(0),
            scratch: RefCell::new(vec![0; SCRATCH_LEN].into()),
            services: RefCell::default(),
            deadlines: Deadlines::default(),
            draining: Cell::new(false),
        }
    }

    /// Does what is asked until nobody can ask any more.
    pub(super) async fn run(self: Rc<Self>, mut commands: UnboundedReceiver<Command>) {
        while let Some(command) = commands.recv().await {
            match command {
                Command::Serve(runtime, socket) => self.serve(runtime, socket),
                Command::Replace(runtime) => {
                    if let Some((hosted, _)) = self.services.borrow().get(&runtime.address) {
                        hosted.replace(runtime);
                    }
                }
                Command::Retire(address) => {
                    if let Some((hosted, _)) = self.services.borrow_mut().remove(&address) {
                        spawn_local(async move {
                            time::sleep(RETIRE_GRACE).await;
                            hosted.retire();
                        });
                    }
                }
                // Whoever asked may have gone; the answer is nobody's then.
                Command::List(filter, max, answer) => {
                    answer.send(self.list(&filter, max)).ok();
                }
                Command::Kill(filter, answer) => {
                    let chosen = |slot: &Slot| slot.matches(&filter, self.now());
                    answer.send(self.signal(Signal::Kill, chosen)).ok();
                }
                Command::Drain(answer) => self.drain(answer),
                Command::DrainExpired => {
                    self.signal(Signal::DrainExpired, |_| true);
                }
            }
        }
    }

    fn drain(&self, answer: oneshot::Sender<()>) {
        self.draining.set(true);
        self.signal(Signal::Drain, |_| true);
        let retired: Vec<_> = self.services.take().into_values().collect();
        for (hosted, _) in &retired {
            hosted.retire();
        }
        spawn_local(async move {
            for (_, accepting) in retired {
                // A listener whose task panicked is closed as well.
                accepting.await.ok();
            }
            answer.send(()).ok();
        });
    }

    fn serve(self: &Rc<Self>, runtime: Arc<ServiceRuntime>, socket: Socket) {
        let address = runtime.address;
        // SAFETY: the socket owns its descriptor, which stays the same and open until it is dropped,
        // and nothing takes it out of here.
        let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        let socket = match registered {
            Ok(socket) => socket,
            Err(error) => {
                log::error!("cannot wait for connections at {address}: {error}");
                return;
            }
        };
        let hosted = Rc::new(Hosted::new(runtime));
        let accepting = spawn_local(Rc::clone(&hosted).accept(Rc::clone(self), socket));
        let hosted = (hosted, accepting);
        self.services.borrow_mut().insert(address, hosted);
    }

    /// Takes on a client.
    pub(super) fn accepted(self: &Rc<Self>, hosted: &Hosted, client: Socket, address: SocketAddr) {
        let runtime = hosted.runtime();
        let leg = match Leg::connected(client) {
            Ok(leg) => leg,
            Err(error) => {
                log::warn!("cannot wait for data of {address}: {error}");
                return;
            }
        };
        runtime.stats.accepted.count();
        self.stats.connections.add(1);
        let slot = self.place(runtime, address);
        if self.draining.get() {
            slot.signal(Signal::Drain);
        }
        spawn_local(Serve::new(slot, Rc::clone(self), leg));
    }

    fn place(&self, runtime: Arc<ServiceRuntime>, client: SocketAddr) -> Rc<Slot> {
        let mut slots = self.slots.borrow_mut();
        let entry = slots.vacant_entry();
        self.serial.set(self.serial.get().wrapping_add(1));
        let id = ConnectionId {
            worker: self.index,
            slot: entry.key() as u32,
            serial: self.serial.get(),
        };
        let slot = Rc::new(Slot::new(id, runtime, client, self.now()));
        entry.insert(Rc::clone(&slot));
        slot
    }

    /// Forgets a connection that ended.
    pub(super) fn leave(&self, slot: &Slot) {
        self.deadlines.clear(slot.id.slot);
        self.slots.borrow_mut().remove(slot.id.slot as usize);
        self.stats.connections.add(-1);
    }

    /// The time.
    pub(super) fn now(&self) -> Tick {
        Tick::of(self.start.elapsed())
    }

    /// The buffer that all connections read into. Whoever uses it leaves nothing in it.
    pub(super) fn scratch(&self) -> RefMut<'_, Box<[u8]>> {
        self.scratch.borrow_mut()
    }

    /// Counts bytes that wait for a slow receiver.
    pub(super) fn buffered(&self, bytes: usize) {
        self.stats.buffered_bytes.add(bytes as i64);
    }

    /// Counts bytes that no longer wait.
    pub(super) fn unbuffered(&self, bytes: usize) {
        self.stats.buffered_bytes.add(-(bytes as i64));
    }

    /// What it counts.
    pub(super) fn stats(&self) -> &WorkerStats {
        &self.stats
    }

    /// Lists connections.
    fn list(&self, filter: &Filter, max: usize) -> Listing {
        let now = self.now();
        let mut listing = Listing::default();
        for (_, slot) in &*self.slots.borrow() {
            if slot.matches(filter, now) {
                listing.matched += 1;
                if listing.rows.len() < max {
                    listing.rows.push(slot.info(now));
                }
            }
        }
        listing
    }

    /// Signals to those that are chosen, and tells how many they are.
    fn signal(&self, signal: Signal, chosen: impl Fn(&Slot) -> bool) -> u64 {
        let mut signalled = 0;
        for (_, slot) in &*self.slots.borrow() {
            if chosen(slot) {
                slot.signal(signal);
                signalled += 1;
            }
        }
        signalled
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
