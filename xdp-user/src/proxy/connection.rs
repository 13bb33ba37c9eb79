//! The task of one connection: tells the engine what its sockets say, and does what it answers.

mod opening;

use std::{
    mem,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Instant,
};

use super::{
    hosted::Tried,
    leg::{Failure, Leg},
    slot::Slot,
    transfer::{Step, Transfer},
    worker::Worker,
};
use crate::engine::{
    Tick,
    connection::{Action, Event, LegError, Phase},
    reason::ConnectError,
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
    /// Whether the backend's SYN-ACK may not be acknowledged yet.
    owes_ack: bool,
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
            owes_ack: false,
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
        self.acknowledge();
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

    /// Acknowledges the backend's SYN-ACK, if no bytes of the client did.
    fn acknowledge(&mut self) {
        if mem::take(&mut self.owes_ack)
            && !self.sent[Side::Client.index()]
            && let Some(backend) = &self.legs[Side::Backend.index()]
        {
            backend.acknowledge();
        }
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
