//! The task of one connection: tells the engine what its sockets say, and does what it answers.

use std::{
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use super::{
    connect::{self, Started},
    leg::{Failure, Leg},
    runtime::Pool,
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
    /// The backends while connecting, and which of them were tried.
    candidates: Option<Arc<Pool>>,
    tried: u64,
    /// Whether the connect in progress was answered at once.
    connected: bool,
    now: Tick,
}

const _: () = assert!(size_of::<Serve>() <= MEMORY_MAX);

impl Serve {
    /// Serves a client that was accepted.
    pub(super) fn new(slot: Rc<Slot>, worker: Rc<Worker>, client: Leg) -> Self {
        let now = slot.accepted;
        let mut serve = Self {
            slot,
            worker,
            legs: [Some(client), None],
            transfers: Default::default(),
            finished: [false; 2],
            candidates: None,
            tried: 0,
            connected: false,
            now,
        };
        serve.tell(Event::Accepted {
            header_expected: false,
        });
        serve
    }

    /// Tells the engine and does what it answers, until it has no more to say.
    fn tell(&mut self, event: Event) {
        let mut event = Some(event);
        while let Some(told) = event.take() {
            for action in self.slot.handle(self.now, told) {
                event = self.act(action).or(event);
            }
        }
    }

    /// Does one thing; some have an answer at once.
    fn act(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Admit => return Some(Event::Admitted),
            Action::Connect => return self.connect(),
            Action::AbandonConnect => self.connect_ended(Some(ConnectError::Timeout)),
            Action::Open => self.candidates = None,
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

    fn connect(&mut self) -> Option<Event> {
        let pool = self
            .candidates
            .get_or_insert_with(|| self.slot.service.pool.load());
        let untried = |(n, _): &(usize, _)| self.tried & 1 << n == 0;
        let mut untried = pool.backends.iter().enumerate().filter(untried);
        let Some((n, guard)) = untried.find_map(|(n, backend)| Some((n, backend.try_take()?)))
        else {
            return Some(Event::NoBackend);
        };
        self.tried |= 1 << n;
        let started = connect::start(guard.backend().address);
        self.slot.set_backend(Some(guard));
        match started {
            Ok(Started::Connected(leg)) => {
                self.legs[1] = Some(leg);
                self.connected = true;
                None
            }
            Ok(Started::InProgress(leg)) => {
                self.legs[1] = Some(leg);
                self.connected = false;
                None
            }
            Err(error) => {
                self.connect_ended(Some(error));
                Some(Event::ConnectFailed(error))
            }
        }
    }

    /// Counts how the attempt to connect ended.
    fn connect_ended(&mut self, error: Option<ConnectError>) {
        let Some(backend) = self.slot.backend() else {
            return;
        };
        match error {
            None => backend.stats.connections.count(),
            Some(error) => {
                backend.stats.failures[error.index()].count();
                self.legs[1] = None;
                self.slot.set_backend(None);
            }
        }
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
            Poll::Ready(Ok(())) => {
                self.connect_ended(None);
                self.tell(Event::Connected);
                Poll::Ready(())
            }
            Poll::Ready(Err(errno)) => {
                let error = connect::failed(errno);
                self.connect_ended(Some(error));
                self.tell(Event::ConnectFailed(error));
                Poll::Ready(())
            }
            Poll::Pending => client
                .poll_broken(cx)
                .map(|failure| self.broken(Side::Client, failure)),
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

    /// Ready when a leg broke that nothing is read from at the moment.
    fn poll_unread(&mut self, cx: &mut Context<'_>, side: Side) -> Poll<Failure> {
        let held = self.transfers[side.index()].holds_bytes();
        match &mut self.legs[side.index()] {
            Some(leg) if held || leg.at_eof() => leg.poll_broken(cx),
            _ => Poll::Pending,
        }
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
        }
        step
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
            Step::Waiting if self.transfers[to.other().index()].holds_bytes() => {
                return Poll::Pending;
            }
            Step::Waiting | Step::Finished | Step::SenderBroke(_) => {}
        }
        match &mut self.legs[to.index()] {
            Some(leg) if leg.unsent() > 0 => {
                leg.poll_broken(cx).map(|failure| self.broken(to, failure))
            }
            _ => {
                self.tell(Event::Flushed(to));
                Poll::Ready(())
            }
        }
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
                Phase::Header | Phase::Waiting => Poll::Pending,
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
        self.worker.leave(&self.slot);
    }
}
