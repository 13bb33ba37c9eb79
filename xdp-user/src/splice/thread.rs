//! The thread's loop.

use std::{
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::Ordering::Relaxed,
        mpsc::{Receiver, TryRecvError},
    },
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use xdp_common::{
    abi::SERVICES_MAX,
    cookie::Key,
    splice::flow::{FlowState, STATE_PENDING, TARGETS_MAX},
    wire::tcp::Kind,
};

use super::{
    Shared,
    answers::Answers,
    commands::{Command, Job},
    sweep::Sweep,
    world::Realm,
};
use crate::{
    engine::{
        Tick,
        handshake::{Handshakes, received::Received},
        reaper::{self, Timeouts},
    },
    splicing::stats::{STATES, state_index},
};

/// The longest wait for something to happen, milliseconds: counters are passed on each time, and
/// the data path's ring is read.
const WAIT_MAX_MS: u64 = 250;

/// The wait before frames that the kernel refused are tried again, milliseconds.
const RETRY_MS: u64 = 1;

/// How often counters are passed on, milliseconds: each socket is asked for its own.
const REPORT_MS: u64 = 250;

/// For connections of a service that this process has never known: RFC 5382 REQ-5, RFC 9293 3.6.1.
const UNKNOWN_SERVICE: Timeouts = Timeouts {
    idle_s: 7440,
    close_wait_s: 240,
    fin_wait_s: 240,
    last_ack_s: 60,
    time_wait_s: 60,
};

/// Connections of one service by [`state_index`].
type States = [u32; STATES.len()];

/// All that the thread has.
pub(super) struct Thread {
    pub(super) realm: Realm,
    pub(super) handshakes: Handshakes,
    pub(super) shared: Arc<Shared>,
    pub(super) commands: Receiver<Command>,
    pub(super) started: Instant,
    keys: Arc<[Key; 2]>,
    keys_version: u32,
    answers: Answers,
    job: Option<Job>,
    sweep: Sweep,
    /// What the round that goes on has found, by service.
    states: Box<[States]>,
    /// The same by target: how many are over.
    over: Box<[u32]>,
    /// Segments of one turn.
    segments: Vec<Received>,
    reported: Tick,
}

impl Thread {
    pub(super) fn new(
        realm: Realm,
        handshakes: Handshakes,
        answers: Answers,
        shared: Arc<Shared>,
        commands: Receiver<Command>,
        started: Instant,
    ) -> Self {
        Self {
            sweep: Sweep::new(realm.now),
            reported: realm.now,
            keys: shared.keys.load(),
            keys_version: 0,
            realm,
            handshakes,
            answers,
            shared,
            commands,
            started,
            job: None,
            states: vec![States::default(); SERVICES_MAX as usize].into(),
            over: vec![0; TARGETS_MAX as usize].into(),
            segments: Vec::new(),
        }
    }

    /// Works until nobody can ask for anything any more. Flows go on without it.
    pub(super) fn run(mut self) {
        loop {
            let now = Tick::of(self.started.elapsed());
            self.take_note(now);
            let more = self.receive(now);
            self.handshakes.expire(now, &mut self.realm);
            self.answers.expire(now, &mut self.realm);
            self.realm.close_ended();
            self.sweep(now);
            if !self.obey() {
                break;
            }
            self.realm.links.flush();
            if now.since(self.reported) >= REPORT_MS {
                self.reported = now;
                self.report(now);
            }
            let busy = more || self.job.is_some();
            self.wait(if busy { 0 } else { self.wait_ms(now) });
        }
        self.realm.links.flush();
    }

    /// Time, keys, services and targets as they are now.
    fn take_note(&mut self, now: Tick) {
        self.realm.now = now;
        self.realm.table.set_time(now, self.clock_s());
        self.realm.refresh();
        if self
            .shared
            .keys
            .refresh(&mut self.keys, &mut self.keys_version)
        {
            self.handshakes.set_keys(*self.keys);
        }
    }

    fn clock_s(&self) -> u32 {
        self.shared.clock_s.load(Relaxed)
    }

    /// Gives the engine what has come. True if there may be more.
    fn receive(&mut self, now: Tick) -> bool {
        let mut segments = std::mem::take(&mut self.segments);
        let stats = &self.realm.stats;
        let more = self.realm.links.receive(|received| {
            stats.received.count();
            match received {
                Ok(segment) => segments.push(segment),
                Err(_) => stats.unreadable.count(),
            }
        });
        self.answers.read(now);
        for segment in segments.drain(..) {
            if segment.kind != Kind::Syn {
                self.answers.heard_of(&segment.tuple);
            }
            if !self.realm.answer_ended(&segment) {
                self.handshakes.receive(now, &segment, &mut self.realm);
            }
        }
        self.segments = segments;
        more
    }

    /// Looks at the next part of the table, and ends what is over.
    fn sweep(&mut self, now: Tick) {
        let Some(piece) = self.sweep.piece(now, self.realm.table.end()) else {
            return;
        };
        let start = Instant::now();
        let clock_s = self.clock_s();
        let Realm {
            table,
            known,
            ending,
            ..
        } = &self.realm;
        let (states, targets_over) = (&mut self.states, &mut self.over);
        let (mut over, mut doubtful) = (Vec::new(), Vec::new());
        table.scan(piece.range, |id, flow| {
            if flow.state == STATE_PENDING && ending.contains(id) {
                return;
            }
            let state = flow.tcp_state();
            states[usize::from(flow.service)][state_index(state)] += 1;
            targets_over[usize::from(flow.target)] += u32::from(state.is_over());
            let service = known.get(&flow.service);
            let timeouts = service.map_or(&UNKNOWN_SERVICE, |service| &service.timeouts);
            over.extend(reaper::judge(flow, clock_s, timeouts).map(|reaped| (id, reaped)));
            doubtful.extend(reaper::doubtful(flow, clock_s).map(|side| (*flow, side)));
        });
        for (flow, side) in doubtful {
            self.realm.probe(&flow, side);
        }
        for (id, reaped) in over {
            self.realm.end(id, reaped.reason, reaped.reset);
        }
        if piece.last {
            self.end_round();
        }
        let us = start.elapsed().as_micros();
        self.realm.stats.sweep_us.add(us as u64);
    }

    /// Shows what a round has found.
    fn end_round(&mut self) {
        for service in self.realm.known.values() {
            let states = &mut self.states[usize::from(service.engine.id)];
            for (gauge, count) in service.stats.states.iter().zip(states.iter()) {
                gauge.set((*count).into());
            }
        }
        let over = self.states.iter().map(|states| {
            states[state_index(FlowState::TimeWait)] + states[state_index(FlowState::Closed)]
        });
        self.realm.table.usage().set_over(over, &self.over);
        self.states.fill(States::default());
        self.over.fill(0);
    }

    /// Does what is asked. False when nobody can ask any more.
    fn obey(&mut self) -> bool {
        if self.job.is_none() {
            match self.commands.try_recv() {
                Ok(command) => self.job = Some(Job::new(command)),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        let clock_s = self.clock_s();
        self.job = self
            .job
            .take()
            .and_then(|job| job.go_on(clock_s, &mut self.handshakes, &mut self.realm));
        true
    }

    /// Passes on what is counted elsewhere.
    fn report(&self, now: Tick) {
        let Realm {
            table,
            links,
            stats,
            ..
        } = &self.realm;
        let counts = table.counts();
        stats.flows.set((counts.open + counts.pending).into());
        match links.counts() {
            Ok(counts) => {
                stats.receive_dropped.set(counts.dropped as i64);
                stats.send_refused.set(counts.send_refused as i64);
            }
            Err(error) => log::debug!("{error:#}"),
        }
        stats.strays.set(self.handshakes.strays() as i64);
        for service in self.realm.known.values() {
            let id = service.engine.id;
            service.stats.flows.set(table.usage().of_service(id).into());
            // To find the oldest, all have to be looked at.
            let age_ms = match self.handshakes.depth(id) {
                0 => 0,
                _ => self.handshakes.oldest_age_ms(now, id),
            };
            service.stats.half_open_oldest_ms.set(age_ms as i64);
        }
    }

    /// How long there is nothing to do unless something comes.
    fn wait_ms(&self, now: Tick) -> u64 {
        if self.realm.links.is_sending() {
            return RETRY_MS;
        }
        let is_empty = self.realm.table.end() == 1;
        let sweep = (!is_empty).then(|| self.sweep.due());
        let due = [
            sweep,
            self.handshakes.next(),
            self.answers.next(),
            self.realm.ending.due(),
        ];
        let due = due.into_iter().flatten().min();
        due.map_or(WAIT_MAX_MS, |due| due.since(now).min(WAIT_MAX_MS))
    }

    /// Waits for frames or questions, `ms` at most.
    fn wait(&self, ms: u64) {
        let wake = self.shared.wake.as_fd();
        let fds = self.realm.links.fds().chain([wake]);
        let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let timeout = Duration::from_millis(ms);
        match poll(
            &mut fds,
            PollTimeout::try_from(timeout).unwrap_or(PollTimeout::ZERO),
        ) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => log::error!("cannot wait for frames: {error}"),
        }
        let asked = fds.last().and_then(PollFd::any).unwrap_or_default();
        if asked && let Err(error) = self.shared.wake.read() {
            log::error!("cannot take note of an event: {error}");
        }
    }
}
