//! One direction of a connection: what one leg received goes to the other.
//!
//! Small amounts go through the worker's buffer, bulk through a pipe. Nothing is read before what
//! was read is written, so a slow receiver holds up its sender and not memory.

use std::{mem, task::Context};

use super::{
    leg::{Failure, Got, Leg},
    pipe::Pipe,
    worker::{SCRATCH_LEN, Worker},
};

/// Bytes that one direction moves before others get their turn.
const TURN_BYTES: usize = 1 << 20;

/// Rounds of one turn, so that a sender of single bytes does not hold it for long.
const TURN_ROUNDS: u32 = 16;

/// A read of as much is bulk.
const BULK_MIN: usize = 32 << 10;

/// A pipe filled with less is not worth its system calls.
const FILL_MIN: usize = 16 << 10;

/// Bulk reads in a row that make it worth a pipe, and poor fills in a row that end that.
const STREAK: u8 = 2;

/// What is read at a time while as much waits in the worker as may.
const SCARCE_LEN: usize = 4 << 10;

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing more can be done until a leg is ready; the task will be woken.
    Waiting,
    /// The turn is over, and there may be more to do.
    More,
    /// The sender's FIN came, and everything before it was passed on.
    Finished,
    /// The sender's leg broke, and everything it had received was passed on.
    SenderBroke(Failure),
    /// The receiver's leg broke.
    ReceiverBroke(Failure),
}

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Transfer {
    held: Held,
    /// The proxy's own bytes, to be sent before all others.
    first: Box<[u8]>,
    /// Up to [`STREAK`]: how much it looks like bulk.
    streak: u8,
    /// Whether the receiver is what it waits for.
    is_blocked: bool,
    /// What the worker knows to be held.
    counted: usize,
}

/// What was read and is not written yet.
#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    /// What was left of a read.
    Bytes {
        bytes: Box<[u8]>,
        written: usize,
        /// How many of those that are left are the proxy's own.
        own: usize,
    },
    /// In a pipe, which may be empty.
    Pipe(Pipe),
}

impl Transfer {
    /// Moves what can be moved, and tells how many bytes left.
    pub(super) fn pump(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Leg,
        to: &mut Leg,
        worker: &Worker,
    ) -> (usize, Step) {
        let mut moved = 0;
        let mut step = Step::More;
        self.is_blocked = false;
        for _ in 0..TURN_ROUNDS {
            match self.round(cx, from, to, worker) {
                Ok(n) => moved += n,
                Err(end) => {
                    step = end;
                    break;
                }
            }
            if moved >= TURN_BYTES {
                break;
            }
        }
        self.settle(step, worker);
        (moved, step)
    }

    /// One write of what is held; or one read, and one write of that.
    fn round(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Leg,
        to: &mut Leg,
        worker: &Worker,
    ) -> Result<usize, Step> {
        if self.holds_bytes() {
            return self.drain(cx, to);
        }
        if !self.first.is_empty() {
            return self.copy(from, to, SCRATCH_LEN, worker);
        }
        if from.at_eof() {
            return Err(from.failure().map_or(Step::Finished, Step::SenderBroke));
        }
        if from.poll_readable(cx).is_pending() {
            return Err(Step::Waiting);
        }
        if worker.is_buffer_full() {
            // Read only what can be written at once, so that no more waits than may.
            if !to.has_room() && to.poll_writable(cx).is_pending() {
                self.is_blocked = true;
                return Err(Step::Waiting);
            }
            return self.copy(from, to, SCARCE_LEN, worker);
        }
        if self.streak >= STREAK && self.take_pipe(worker) {
            return self.fill(from);
        }
        self.copy(from, to, SCRATCH_LEN, worker)
    }

    /// Writes what is held.
    fn drain(&mut self, cx: &mut Context<'_>, to: &mut Leg) -> Result<usize, Step> {
        if to.poll_writable(cx).is_pending() {
            self.is_blocked = true;
            return Err(Step::Waiting);
        }
        let got = match &mut self.held {
            Held::Nothing => return Ok(0),
            Held::Bytes { bytes, written, .. } => to.write(&bytes[*written..]),
            Held::Pipe(pipe) => to.splice_out(pipe),
        };
        match got {
            Got::Bytes(n) => Ok(self.held.wrote(n)),
            Got::Blocked | Got::Eof => Ok(0),
            Got::Broken(failure) => Err(Step::ReceiverBroke(failure)),
        }
    }

    /// Reads once, at most `max` bytes, and writes that at once.
    fn copy(
        &mut self,
        from: &mut Leg,
        to: &mut Leg,
        max: usize,
        worker: &Worker,
    ) -> Result<usize, Step> {
        self.put_pipe(worker);
        let mut scratch = worker.scratch();
        let own = self.first.len();
        scratch[..own].copy_from_slice(&self.first);
        let wanted = own == 0 || !from.at_eof() && from.has_input();
        let read = if wanted {
            from.read(&mut scratch[own..max])
        } else {
            Got::Blocked
        };
        let n = match read {
            Got::Bytes(n) => n,
            Got::Eof | Got::Blocked => 0,
            Got::Broken(failure) if own == 0 => return Err(Step::SenderBroke(failure)),
            // The next round tells.
            Got::Broken(_) => 0,
        };
        if own + n == 0 {
            return Ok(0);
        }
        self.first = Box::default();
        self.streak = if n < BULK_MIN {
            0
        } else {
            (self.streak + 1).min(STREAK)
        };
        let all = &scratch[..own + n];
        let write = if n > 0 && from.fin_is_next() {
            Leg::write_last
        } else {
            Leg::write
        };
        let written = match write(to, all) {
            Got::Bytes(written) => written,
            Got::Blocked | Got::Eof => 0,
            Got::Broken(failure) => return Err(Step::ReceiverBroke(failure)),
        };
        if written < all.len() {
            self.held = Held::Bytes {
                bytes: all[written..].into(),
                written: 0,
                own: own.saturating_sub(written),
            };
        }
        Ok(written.saturating_sub(own))
    }

    /// Has an empty pipe, if one is to be had.
    fn take_pipe(&mut self, worker: &Worker) -> bool {
        if let Held::Nothing = self.held
            && let Some(pipe) = worker.take_pipe()
        {
            self.held = Held::Pipe(pipe);
        }
        matches!(self.held, Held::Pipe(_))
    }

    /// Fills the pipe, which is empty: that nothing comes can only mean that there is nothing, and
    /// not that the pipe is full.
    fn fill(&mut self, from: &mut Leg) -> Result<usize, Step> {
        let Held::Pipe(pipe) = &mut self.held else {
            return Ok(0);
        };
        match from.splice_in(pipe) {
            Got::Bytes(n) => {
                self.streak = if n < FILL_MIN {
                    self.streak - 1
                } else {
                    STREAK
                };
                Ok(0)
            }
            Got::Eof | Got::Blocked => Ok(0),
            Got::Broken(failure) => Err(Step::SenderBroke(failure)),
        }
    }

    /// Whether it waits for the receiver, and so does not look at the sender.
    pub(super) const fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Whether bytes wait in it.
    pub(super) const fn holds_bytes(&self) -> bool {
        self.held.len() > 0
    }

    /// Puts bytes of the proxy's own before everything else. They are not counted as passed on.
    pub(super) fn put_first(&mut self, worker: &Worker, write: impl FnOnce(&mut [u8]) -> usize) {
        let mut scratch = worker.scratch();
        let len = write(&mut scratch);
        self.first = scratch[..len].into();
    }

    /// Gives back what it holds.
    pub(super) fn release(&mut self, worker: &Worker) {
        self.put_pipe(worker);
        self.held = Held::Nothing;
        self.account(worker);
    }

    fn put_pipe(&mut self, worker: &Worker) {
        if let Held::Pipe(_) = self.held
            && let Held::Pipe(pipe) = mem::take(&mut self.held)
        {
            worker.put_pipe(pipe);
        }
    }

    /// Leaves nothing behind that an idle connection does not need.
    fn settle(&mut self, step: Step, worker: &Worker) {
        if step != Step::More && !self.holds_bytes() {
            self.put_pipe(worker);
            self.held = Held::Nothing;
        }
        self.account(worker);
    }

    fn account(&mut self, worker: &Worker) {
        let held = self.held.len();
        worker.buffered(held as i64 - self.counted as i64);
        self.counted = held;
    }
}

impl Held {
    /// Bytes that wait.
    const fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Bytes { bytes, written, .. } => bytes.len() - *written,
            Self::Pipe(pipe) => pipe.len,
        }
    }

    /// Takes note of `n` bytes that were written, and tells how many of them were not the proxy's
    /// own.
    fn wrote(&mut self, n: usize) -> usize {
        let Self::Bytes {
            bytes,
            written,
            own,
        } = self
        else {
            return n;
        };
        *written += n;
        let theirs = n.saturating_sub(*own);
        *own = own.saturating_sub(n);
        if *written == bytes.len() {
            *self = Self::Nothing;
        }
        theirs
    }
}
