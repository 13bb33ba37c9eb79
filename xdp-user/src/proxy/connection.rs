//! The task of one connection: tells the engine what its sockets say, and does what it answers.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Instant,
};

use super::{
    connect::{self, Started},
    header::{self, HEADER_MAX, Parsed},
    hosted::Tried,
    leg::{Failure, Got, Leg},
    slot::Slot,
    transfer::{Step, Transfer},
    worker::Worker,
};
use crate::engine::{
    Tick,
    connection::{Action, Event, LegError, Phase},
    half_open::Place,
    reason::{ConnectError, Refusal},
    tcp::Side,
};

/// What a connection's task may take, bytes: there are as many as connections.
const MEMORY_MAX: usize = 512;

/// How often it is looked whether the kernel has sent what it holds, milliseconds.
const FLUSH_LOOK_MS: u64 = 16;

/// A connection's task.
#[derive(Debug)]
pub(super) struct Serve {
    slot: Rc<Slot>,
    worker: Rc<Worker>,
    legs: [Option<Leg>; 2],
    /// By the side that sends.
    transfers: [Transfer; 2],
    /// Whose FIN was passed on.
    finished: [bool; 2],
    /// Which backends were tried.
    tried: Tried,
    /// When the time began that is measured next: to the backend's SYN-ACK, then to its first
    /// byte.
    since: Instant,
    /// Who sent bytes since the connection is open.
    sent: [bool; 2],
    /// Whether the connect in progress was answered at once.
    connected: bool,
    /// What the kernel had not sent yet of the last bytes before a RST.
    unsent: u32,
    now: Tick,
}

const _: () = assert!(size_of::<Serve>() <= MEMORY_MAX);

impl Serve {
    /// Serves a client that was accepted.
    pub(super) fn new(
        slot: Rc<Slot>,
        worker: Rc<Worker>,
        client: Leg,
        header_expected: bool,
    ) -> Self {
        let now = slot.accepted;
        let mut serve = Self {
            slot,
            worker,
            legs: [Some(client), None],
            transfers: Default::default(),
            finished: [false; 2],
            tried: Tried::default(),
            since: Instant::now(),
            sent: [false; 2],
            connected: false,
            unsent: 0,
            now,
        };
        serve.tell(Event::Accepted { header_expected });
        serve
    }

    /// Tells the engine and does what it answers, until it has no more to say.
    fn tell(&mut self, event: Event) {
        let mut event = Some(event);
        while let Some(told) = event.take() {
            let actions = self.slot.handle(self.now, told);
            let closes = |action| matches!(action, Action::CloseBoth(_));
            let is_last = actions.into_iter().any(closes);
            for action in actions {
                // Closing the socket sends the FIN as well.
                if !(is_last && matches!(action, Action::ShutdownWrite(_))) {
                    event = self.act(action).or(event);
                }
            }
        }
    }

    /// Does one thing; some have an answer at once.
    fn act(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Admit => return Some(self.admit()),
            Action::Connect => return self.connect(),
            Action::AbandonConnect => self.connect_ended(Err(ConnectError::Timeout)),
            Action::Open => self.open(),
            Action::ShutdownWrite(side) => {
                self.finished[side.other().index()] = true;
                if let Some(leg) = &self.legs[side.index()] {
                    leg.shutdown_write();
                }
            }
            Action::AwaitFlush(_) => {}
            Action::Reset(side) => {
                if let Some(leg) = self.legs[side.index()].take() {
                    leg.reset();
                }
            }
            Action::CloseBoth(_) => self.legs = [None, None],
        }
        None
    }

    /// Takes a place among the service's connections, where that was not possible before, and in
    /// its half-open queue.
    fn admit(&mut self) -> Event {
        let slot = &self.slot;
        if let Some(via) = slot.via.get() {
            let client = slot.client.get().ip();
            // An upstream is not bound by what bounds its clients.
            let client = (slot.client.get() != via).then_some(client);
            match self.worker.admit(&slot.hosting, client) {
                Ok(admitted) => slot.set_admitted(admitted),
                Err(reason) => return self.refuse(reason),
            }
        }
        let spoke = self.legs[0].as_ref().is_some_and(Leg::has_input);
        match slot.enter_half_open(self.now, spoke) {
            Place::Free => {}
            Place::Evicted { key } => self.worker.evict(key),
            Place::Full => return self.refuse(Refusal::HalfOpenFull),
        }
        Event::Admitted
    }

    fn refuse(&self, reason: Refusal) -> Event {
        self.slot.service().stats.refused[reason.index()].count();
        Event::Refused
    }

    fn connect(&mut self) -> Option<Event> {
        let slot = &self.slot;
        if self.tried != Tried::default() {
            slot.service().stats.retries.count();
        }
        let client = slot.client.get();
        let (index, shared) = (self.worker.index(), self.worker.shared());
        let picked = slot
            .hosted
            .pick(client.ip(), &mut self.tried, index, shared);
        let Some(guard) = picked else {
            return Some(Event::NoBackend);
        };
        let backend = guard.backend().address;
        slot.set_backend(Some(guard));
        let config = &slot.service().config;
        let started = connect::start(backend, config, client, slot.id.serial as usize);
        let leg = match started {
            Ok(Started::Connected(leg)) => {
                self.connected = true;
                leg
            }
            Ok(Started::InProgress(leg)) => {
                self.connected = false;
                leg
            }
            Err(error) => {
                self.connect_ended(Err(error));
                return Some(Event::ConnectFailed(error));
            }
        };
        self.legs[1] = Some(leg);
        None
    }

    /// Takes note of how the attempt to connect ended.
    fn connect_ended(&mut self, result: Result<(), ConnectError>) {
        let service = self.slot.service();
        if let Some(backend) = self.slot.backend() {
            service.report_connect(&backend, self.now, result);
        }
        if result.is_ok() {
            service.stats.connect.observe(self.since.elapsed());
        } else {
            self.legs[1] = None;
            self.slot.set_backend(None);
        }
    }

    /// Gives the place in the half-open queue back, and tells the backend who the client is.
    fn open(&mut self) {
        self.since = Instant::now();
        let slot = &self.slot;
        slot.leave_half_open(self.now);
        if let Some(version) = slot.service().config.send_proxy {
            let (client, service) = (slot.client.get(), slot.service().address);
            let write = |buffer: &mut [u8]| header::write(version, client, service, buffer);
            self.transfers[0].put_first(&self.worker, write);
        }
    }

    /// Reads the PROXY header, and nothing behind it.
    fn poll_header(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(client) = &mut self.legs[0] else {
            return Poll::Pending;
        };
        ready!(client.poll_readable(cx));
        let mut scratch = self.worker.scratch();
        let event = match client.peek(&mut scratch[..HEADER_MAX]) {
            Got::Blocked => return Poll::Ready(()),
            Got::Eof => Event::Fin(Side::Client),
            Got::Broken(failure) => {
                drop(scratch);
                self.broken(Side::Client, failure);
                return Poll::Ready(());
            }
            Got::Bytes(n) => match header::parse(&scratch[..n]) {
                Parsed::Invalid => Event::HeaderInvalid,
                Parsed::Incomplete if client.await_more() => return Poll::Ready(()),
                Parsed::Incomplete => Event::HeaderInvalid,
                Parsed::Complete { len, client: told } => {
                    // They were there a moment ago, and nobody else reads them.
                    client.read(&mut scratch[..len]);
                    let upstream = self.slot.client.get();
                    self.slot.via.set(Some(upstream));
                    self.slot.client.set(told.unwrap_or(upstream));
                    Event::Header
                }
            },
        };
        drop(scratch);
        self.tell(event);
        Poll::Ready(())
    }

    fn poll_connecting(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let [Some(client), Some(backend)] = &mut self.legs else {
            return Poll::Pending;
        };
        let answer = if self.connected {
            Poll::Ready(Ok(()))
        } else {
            backend.poll_connected(cx)
        };
        match answer {
            Poll::Ready(result) => {
                let result = result.map_err(connect::failed);
                self.connect_ended(result);
                self.tell(match result {
                    Ok(()) => Event::Connected,
                    Err(error) => Event::ConnectFailed(error),
                });
                Poll::Ready(())
            }
            Poll::Pending => {
                if let Poll::Ready(failure) = client.poll_broken(cx) {
                    self.broken(Side::Client, failure);
                    return Poll::Ready(());
                }
                if client.has_input() {
                    self.slot.hosted.spoke(self.slot.id.slot);
                }
                Poll::Pending
            }
        }
    }

    /// Copies what can be copied, both ways.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut again = false;
        for side in Side::ALL {
            if self.finished[side.index()] {
                continue;
            }
            match self.pump(cx, side) {
                Step::Waiting => {}
                Step::More => again = true,
                Step::Finished => {
                    self.tell(Event::Fin(side));
                    return Poll::Ready(());
                }
                Step::SenderBroke(failure) => {
                    self.broken(side, failure);
                    return Poll::Ready(());
                }
                Step::ReceiverBroke(failure) => {
                    self.broken(side.other(), failure);
                    return Poll::Ready(());
                }
            }
        }
        for side in Side::ALL {
            if let Poll::Ready(failure) = self.poll_unread(cx, side) {
                self.broken(side, failure);
                return Poll::Ready(());
            }
        }
        if again {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Ready when a leg broke that nothing is read from at the moment. Also notes its FIN, from
    /// which on it does not wait for ever.
    fn poll_unread(&mut self, cx: &mut Context<'_>, side: Side) -> Poll<Failure> {
        let is_blocked = self.transfers[side.index()].is_blocked();
        let Some(leg) = &mut self.legs[side.index()] else {
            return Poll::Pending;
        };
        if !is_blocked && !leg.at_eof() {
            return Poll::Pending;
        }
        let broken = leg.poll_broken(cx);
        if is_blocked && broken.is_pending() && leg.has_fin() {
            self.tell(Event::FinReceived(side));
        }
        broken
    }

    fn pump(&mut self, cx: &mut Context<'_>, from: Side) -> Step {
        let [Some(client), Some(backend)] = &mut self.legs else {
            return Step::Waiting;
        };
        let (sender, receiver) = match from {
            Side::Client => (client, backend),
            Side::Backend => (backend, client),
        };
        let transfer = &mut self.transfers[from.index()];
        let (moved, step) = transfer.pump(cx, sender, receiver, &self.worker);
        if moved > 0 {
            self.slot.passed(self.now, from, moved);
            self.measure_first_byte(from);
        }
        step
    }

    /// Measures from the client's first byte to the backend's.
    fn measure_first_byte(&mut self, from: Side) {
        if self.sent[1] || self.sent[from.index()] {
            return;
        }
        self.sent[from.index()] = true;
        match from {
            Side::Client => self.since = Instant::now(),
            Side::Backend => {
                let first_byte = &self.slot.service().stats.first_byte;
                first_byte.observe(self.since.elapsed());
            }
        }
    }

    /// Passes what the broken leg had received on, and then waits until the kernel has sent it.
    fn poll_flush(&mut self, cx: &mut Context<'_>, to: Side) -> Poll<()> {
        match self.pump(cx, to.other()) {
            Step::More => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Step::ReceiverBroke(failure) => {
                self.broken(to, failure);
                return Poll::Ready(());
            }
            Step::Waiting if self.transfers[to.other().index()].is_blocked() => {
                return Poll::Pending;
            }
            Step::Waiting | Step::Finished | Step::SenderBroke(_) => {}
        }
        let Some(leg) = &mut self.legs[to.index()] else {
            return Poll::Pending;
        };
        let unsent = leg.unsent();
        if unsent == 0 {
            self.tell(Event::Flushed(to));
            return Poll::Ready(());
        }
        // A receiver that takes its time, but takes, is waited for.
        if unsent < self.unsent {
            self.slot.passed(self.now, to.other(), 0);
        }
        self.unsent = unsent;
        leg.poll_broken(cx).map(|failure| self.broken(to, failure))
    }

    fn broken(&mut self, side: Side, failure: Failure) {
        let unsent = self.on_the_way(side);
        let kind = match failure {
            Failure::Reset => return self.tell(Event::Reset { side, unsent }),
            Failure::TimedOut => LegError::TimedOut,
            Failure::Unreachable => LegError::Unreachable,
            Failure::Other => LegError::Other,
        };
        self.tell(Event::Error { side, kind, unsent });
    }

    /// Whether bytes that `side` sent have not left this machine yet.
    fn on_the_way(&self, side: Side) -> bool {
        let [Some(_), Some(_)] = &self.legs else {
            return false;
        };
        let leg = |side: Side| self.legs[side.index()].as_ref();
        self.transfers[side.index()].holds_bytes()
            || leg(side).is_some_and(|leg| !leg.at_eof())
            || leg(side.other()).is_some_and(|leg| leg.unsent() > 0)
    }
}

impl Future for Serve {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.now = this.worker.now();
        for event in this.slot.take_signals(cx.waker()) {
            this.tell(event);
        }
        loop {
            let progress = match this.slot.phase() {
                Phase::Connecting => this.poll_connecting(cx),
                Phase::Open => this.poll_open(cx),
                Phase::Resetting(to) => this.poll_flush(cx, to),
                Phase::Header => this.poll_header(cx),
                Phase::Waiting => Poll::Pending,
                Phase::Closed => return Poll::Ready(()),
            };
            if progress.is_pending() {
                let flushing = matches!(this.slot.phase(), Phase::Resetting(_));
                let within_ms = flushing.then_some(FLUSH_LOOK_MS);
                this.slot.arm(this.worker.deadlines(), this.now, within_ms);
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        for transfer in &mut self.transfers {
            transfer.release(&self.worker);
        }
        if self.slot.phase() != Phase::Closed {
            if std::thread::panicking() {
                self.worker.stats().panics.count();
            }
            self.tell(Event::Killed);
        }
        // Descriptors go first: their place is given away next.
        self.legs = [None, None];
        self.slot.set_backend(None);
        self.worker.leave(&self.slot);
    }
}
