//! Many random connections at once through the engine, its wheel and its queue, in virtual time.
//!
//! Peers write, close, reset and fall silent as they like; links are narrow; the proxy does one
//! thing at a time, in any order. What has to be true of every connection:
//!
//! * what a peer gets is the beginning of what the other sent, and all of it where nothing broke;
//! * a FIN reaches a peer behind all bytes, a RST reaches it behind those that the proxy had;
//! * it ends exactly once, for a reason that the history of it explains;
//! * states and deadline are those that the history of it gives, and it does not outlive the
//!   deadline by more than the wheel's granularity;
//! * it leaves nothing behind, in gauges, wheel or queue.

mod check;
mod driver;
mod model;
mod net;
mod peer;
pub(super) mod random;

use std::collections::VecDeque;

use driver::Proxied;
use net::{End, Fault, Random};

use super::{
    Tick,
    connection::{Action, Event, LegError, Phase},
    half_open::{HalfOpenQueue, Place},
    reason::{CloseReason, ConnectError},
    tcp::{Side, TcpState},
    wheel::{GRANULARITY_MS, Wheel},
};
use crate::config::Timeouts;

/// Connections at a time.
const SLOTS: usize = 24;

/// A proxy with one service, its clients and its backends.
struct World {
    random: Random,
    now: Tick,
    timeouts: Timeouts,
    wheel: Wheel,
    queue: HalfOpenQueue,
    slots: Vec<Option<Proxied>>,
    states: [[i64; TcpState::COUNT]; 2],
    ended: [u64; CloseReason::COUNT],
    accepted: u64,
    draining: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let mut timeout_ms = |of: &[u32]| match random.one_in(6) {
            true => 0,
            false => random.of(of),
        };
        let timeouts = Timeouts {
            header_ms: timeout_ms(&[50, 500]),
            connect_ms: timeout_ms(&[50, 500]),
            first_byte_ms: timeout_ms(&[200, 5_000]),
            idle_ms: timeout_ms(&[300, 2_000, 10_000]),
            close_wait_ms: timeout_ms(&[100, 1_000, 20_000]),
            fin_wait_ms: timeout_ms(&[100, 1_000, 20_000]),
        };
        Self {
            now: Tick(random.below(1 << 40)),
            timeouts,
            queue: HalfOpenQueue::new(random.of(&[3, 20, 100, 100])),
            slots: (0..SLOTS).map(|_| None).collect(),
            states: Default::default(),
            ended: [0; CloseReason::COUNT],
            accepted: 0,
            draining: false,
            wheel: Wheel::new(Tick(0)),
            random,
        }
    }

    /// Lets `connections` come and go.
    fn run(&mut self, connections: u64) {
        while self.accepted < connections || self.slots.iter().any(Option::is_some) {
            let key = self.random.below(SLOTS as u64) as u32;
            match self.slots[key as usize] {
                Some(_) => self.step(key),
                None if self.accepted < connections => self.accept(key),
                None => {}
            }
            if self.random.one_in(SLOTS as u64) {
                self.pass_time();
            }
            if self.accepted == connections && self.random.one_in(3_000) {
                self.drain();
            }
        }
        assert_eq!(self.wheel.next(), None);
        assert_eq!(self.queue.depth(), 0);
        assert_eq!(self.states, <[[i64; TcpState::COUNT]; 2]>::default());
        assert_eq!(self.ended.iter().sum::<u64>(), connections);
    }

    fn accept(&mut self, key: u32) {
        self.accepted += 1;
        let header_expected = self.random.one_in(10);
        let retries = self.random.below(3) as u8;
        let proxied = Proxied::new(
            &mut self.random,
            self.now,
            self.accepted,
            retries,
            header_expected,
        );
        for side in Side::ALL {
            self.states[side.index()][proxied.engine.state(side).index()] += 1;
        }
        self.slots[key as usize] = Some(proxied);
        self.tell(key, Event::Accepted { header_expected });
        self.check_gauges();
    }

    fn step(&mut self, key: u32) {
        let Some(proxied) = &mut self.slots[key as usize] else {
            return;
        };
        for _ in 0..self.random.below(6) {
            proxied.outside(&mut self.random);
        }
        let event = if self.random.one_in(10_000) {
            Some(Event::Killed)
        } else if self.random.one_in(2_000) {
            let side = self.random.of(&Side::ALL);
            let kind = [LegError::TimedOut, LegError::Unreachable, LegError::Other];
            let fault = Fault::Error(self.random.of(&kind));
            if let Some(link) = proxied.link(side) {
                link.break_off(End::Proxy, fault);
            }
            None
        } else {
            let event = proxied.poll(&mut self.random, self.now);
            if proxied.spoke {
                self.queue.spoke(key);
            }
            event
        };
        if let Some(event) = event {
            self.tell(key, event);
        }
    }

    /// Time passes, and the wheel turns.
    fn pass_time(&mut self) {
        let ms = self.random.of(&[1, 2, 5, 40]);
        self.now = self.now.after(self.random.below(ms));
        let mut expired = Vec::new();
        while self.wheel.advance(self.now, &mut expired) {}
        for key in expired {
            self.tell(key, Event::Timer);
        }
        let granule = self.now.0 / GRANULARITY_MS;
        for proxied in self.slots.iter().flatten() {
            if let Some((at, reason)) = proxied.engine.deadline(&self.timeouts) {
                let due = at.0.div_ceil(GRANULARITY_MS);
                assert!(due > granule, "{reason:?} at {at:?} is over: {proxied:?}");
            }
        }
    }

    /// The proxy is told to stop; the second time, that it took too long.
    fn drain(&mut self) {
        let event = match self.draining {
            false => Event::Draining,
            true => Event::DrainExpired,
        };
        self.draining = true;
        for key in 0..SLOTS as u32 {
            if let Some(proxied) = &mut self.slots[key as usize] {
                proxied.model.draining = true;
                self.tell(key, event);
            }
        }
    }

    /// Tells the engine, and does what it says.
    fn tell(&mut self, key: u32, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let proxied = self.slots[key as usize].as_mut();
            let proxied = proxied.unwrap_or_else(|| panic!("{event:?} after the end"));
            let before = Side::ALL.map(|side| proxied.engine.state(side));
            proxied.deadline_before = proxied.model.deadline(&self.timeouts);
            let actions = proxied.engine.handle(self.now, event, &self.timeouts);
            let after = Side::ALL.map(|side| proxied.engine.state(side));
            for side in Side::ALL.map(Side::index) {
                self.states[side][before[side].index()] -= 1;
                self.states[side][after[side].index()] += 1;
            }
            match proxied.engine.deadline(&self.timeouts) {
                Some((at, _)) => self.wheel.set(key, at),
                None => self.wheel.clear(key),
            }
            for action in actions {
                self.act(key, event, action, &mut events);
            }
        }
        if let Some(proxied) = &self.slots[key as usize] {
            self.check(proxied);
        }
    }

    fn act(&mut self, key: u32, event: Event, action: Action, events: &mut VecDeque<Event>) {
        if let Action::Admit = action {
            return events.push_back(self.admit(key));
        }
        let proxied = self.slots[key as usize].as_mut();
        let proxied = proxied.unwrap_or_else(|| panic!("{action:?} after the end"));
        match action {
            Action::Admit => {}
            Action::Connect => {
                proxied.model.attempts += 1;
                let errors = [ConnectError::Refused, ConnectError::Unreachable];
                let rare = [
                    ConnectError::NoLocalPort,
                    ConnectError::Fds,
                    ConnectError::Other,
                ];
                let result = match self.random.below(20) {
                    0 => return events.push_back(Event::NoBackend),
                    1..4 => Some(self.random.of(&errors)),
                    4 => Some(self.random.of(&rare)),
                    _ => None,
                };
                let in_ms = self.random.of(&[0, 0, 5, 600]);
                proxied.connect = Some((self.now.after(in_ms), result));
                proxied.model.connect_since = Some(self.now);
            }
            Action::AbandonConnect => {
                assert_eq!(event, Event::Timer);
                proxied.connect = None;
                proxied.model.connect_since = None;
            }
            Action::Open => assert!(self.queue.leave(self.now, key).is_some(), "{proxied:?}"),
            Action::ShutdownWrite(side) => {
                let number = proxied.model.next();
                proxied.model.sides[side.index()].fin_out = Some(number);
                proxied.link(side).expect("a leg to close").fin(End::Proxy);
            }
            Action::AwaitFlush(to) => assert_eq!(proxied.engine.phase(), Phase::Resetting(to)),
            Action::Reset(side) => {
                if let Some(link) = proxied.link(side) {
                    link.reset(End::Proxy);
                } else {
                    assert_eq!(side, Side::Backend);
                    assert!(proxied.connect.take().is_some(), "{proxied:?}");
                }
            }
            Action::CloseBoth(reason) => {
                proxied.model.ended = Some(reason);
                self.check_end(key, event, reason);
            }
        }
    }

    fn admit(&mut self, key: u32) -> Event {
        match self.queue.enter(self.now, key, false) {
            Place::Free => Event::Admitted,
            Place::Full => Event::Refused,
            Place::Evicted { key } => {
                let evicted = self.slots[key as usize].as_ref();
                assert!(evicted.is_some_and(|evicted| !evicted.spoke));
                self.tell(key, Event::Evicted);
                assert!(self.slots[key as usize].is_none(), "{key} is still there");
                Event::Admitted
            }
        }
    }
}
