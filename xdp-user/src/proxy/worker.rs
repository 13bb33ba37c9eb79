//! A worker: one thread with its own event loop, listeners and connections.

use std::{
    cell::{Cell, RefCell, RefMut},
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::errno::Errno;
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
    header,
    hosted::{Hosted, Hosting},
    info::{ConnectionId, Filter, Listing},
    keepalive,
    leg::Leg,
    listener::{self, Reserve},
    pipe::{Pipe, PipePool},
    runtime::ServiceRuntime,
    shared::Shared,
    slot::{Admitted, Signal, Slot},
    stats::WorkerStats,
};
use crate::engine::{
    Tick,
    reason::{AcceptError, Refusal},
    tcp::Side,
    wheel::MOVES_MAX,
};

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

    /// Does what is asked until nobody can ask any more.
    pub(super) async fn run(self: Rc<Self>, mut commands: UnboundedReceiver<Command>) {
        while let Some(command) = commands.recv().await {
            match command {
                Command::Serve(hosting, socket) => self.serve(hosting, socket),
                Command::Replace(hosting) => self.replace(hosting),
                Command::Retire(address) => {
                    if let Some(accepting) = self.services.borrow_mut().remove(&address) {
                        spawn_local(async move {
                            time::sleep(RETIRE_GRACE).await;
                            accepting.hosted.retire();
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
        for accepting in &retired {
            accepting.hosted.retire();
        }
        spawn_local(async move {
            for accepting in retired {
                drop(accepting.socket);
                // A listener whose task panicked is closed as well.
                accepting.task.await.ok();
            }
            answer.send(()).ok();
        });
    }

    fn serve(self: &Rc<Self>, hosting: Hosting, socket: Socket) {
        let address = hosting.runtime.address;
        // SAFETY: the socket owns its descriptor, which stays the same and open until it is dropped,
        // and nothing takes it out of here.
        let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        let socket = match registered {
            Ok(socket) => Rc::new(socket),
            Err(error) => {
                log::error!("cannot wait for connections at {address}: {error}");
                return;
            }
        };
        let hosted = Rc::new(Hosted::new(hosting, self.index, &self.shared));
        let accept = listener::accept(Rc::clone(&hosted), Rc::clone(self), Rc::clone(&socket));
        let accepting = Accepting {
            hosted,
            socket,
            task: spawn_local(accept),
        };
        self.services.borrow_mut().insert(address, accepting);
    }

    fn replace(&self, hosting: Hosting) {
        let services = self.services.borrow();
        let Some(accepting) = services.get(&hosting.runtime.address) else {
            return;
        };
        let probes = hosting.runtime.config.keepalive[Side::Client.index()];
        if let Err(error) = keepalive::set(accepting.socket.get_ref(), probes) {
            let address = hosting.runtime.address;
            log::warn!("cannot change the keepalive probes of {address}: {error}");
        }
        accepting.hosted.replace(hosting, self.index, &self.shared);
    }

    /// Takes on a client, or turns it away.
    pub(super) fn accepted(
        self: &Rc<Self>,
        hosted: &Rc<Hosted>,
        client: Socket,
        address: SocketAddr,
    ) {
        let hosting = hosted.hosting();
        let header = match header::is_expected(&hosting.runtime.config, address.ip()) {
            Ok(header) => header,
            Err(reason) => return hosted.refuse(client, reason),
        };
        if let Err(reason) = self.shared.enter() {
            return hosted.refuse(client, reason);
        }
        // Behind an upstream it is not known yet who the client is.
        let admitted = (!header).then(|| self.admit(&hosting, Some(address.ip())));
        let admitted = match admitted.transpose() {
            Ok(admitted) => admitted,
            Err(reason) => {
                self.shared.leave();
                return hosted.refuse(client, reason);
            }
        };
        let prepared = hosted.set_keepalive(&client);
        let leg = match prepared.and_then(|()| Leg::connected(client)) {
            Ok(leg) => leg,
            Err(error) => {
                log::warn!("cannot use the socket of {address}: {error}");
                self.left(&hosting.runtime, admitted);
                return;
            }
        };
        hosting.runtime.stats.accepted.count();
        self.stats.connections.add(1);
        let slot = self.place(hosting, Rc::clone(hosted), address, admitted);
        if self.draining.get() {
            slot.signal(Signal::Drain);
        }
        spawn_local(Serve::new(slot, Rc::clone(self), leg, header));
    }

    /// Counts a connection of `client`, or of an upstream for itself, to a service.
    ///
    /// # Errors
    /// Fails with the first bound that is reached.
    pub(super) fn admit(
        &self,
        hosting: &Hosting,
        client: Option<IpAddr>,
    ) -> Result<Admitted, Refusal> {
        let permit =
            self.shared
                .enter_service(self.now(), &hosting.runtime, hosting.number, client)?;
        Ok(Admitted { client, permit })
    }

    fn left(&self, runtime: &ServiceRuntime, admitted: Option<Admitted>) {
        if let Some(admitted) = admitted {
            self.shared
                .leave_service(runtime, admitted.client, admitted.permit);
        }
        self.shared.leave();
    }

    fn place(
        &self,
        hosting: Hosting,
        hosted: Rc<Hosted>,
        client: SocketAddr,
        admitted: Option<Admitted>,
    ) -> Rc<Slot> {
        let mut slots = self.slots.borrow_mut();
        let entry = slots.vacant_entry();
        self.serial.set(self.serial.get().wrapping_add(1));
        let id = ConnectionId {
            worker: self.index,
            slot: entry.key() as u32,
            serial: self.serial.get(),
        };
        let slot = Slot::new(id, hosting, hosted, client, admitted, self.now());
        let slot = Rc::new(slot);
        entry.insert(Rc::clone(&slot));
        slot
    }

    /// Forgets a connection that ended.
    pub(super) fn leave(&self, slot: &Slot) {
        self.deadlines.clear(slot.id.slot);
        slot.leave_half_open(self.now());
        self.slots.borrow_mut().remove(slot.id.slot as usize);
        self.left(&slot.hosting.runtime, slot.take_admitted());
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

    /// Counts a failed `accept`, and logs one a minute.
    pub(super) fn accept_failed(&self, reason: AcceptError, errno: Errno) {
        self.stats.accept_errors[reason.index()].count();
        let now = Instant::now();
        let logged = self.accept_error_logged.get();
        if logged.is_none_or(|logged| now - logged >= LOG_PAUSE) {
            self.accept_error_logged.set(Some(now));
            log::warn!("cannot accept a client: {errno}");
        }
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
