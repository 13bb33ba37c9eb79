//! One direction of a connection: what one leg received goes to the other.

use std::task::Context;

use super::{
    leg::{Failure, Got, Leg},
    worker::Worker,
};

/// Bytes that one direction moves before others get their turn.
const TURN_BYTES: usize = 1 << 20;

/// Rounds of one turn, so that a sender of single bytes does not hold it for long.
const TURN_ROUNDS: u32 = 16;

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
    residue: Option<Residue>,
}

/// What was read and could not be written yet.
#[derive(Debug)]
struct Residue {
    bytes: Box<[u8]>,
    written: usize,
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
        for _ in 0..TURN_ROUNDS {
            if self.residue.is_some() {
                match self.drain(cx, to, worker) {
                    Ok(n) => moved += n,
                    Err(step) => return (moved, step),
                }
                continue;
            }
            if from.at_eof() {
                return (moved, Step::Finished);
            }
            if from.poll_readable(cx).is_pending() {
                return (moved, Step::Waiting);
            }
            match self.copy(from, to, worker) {
                Ok(n) => moved += n,
                Err(step) => return (moved, step),
            }
            if moved >= TURN_BYTES {
                break;
            }
        }
        (moved, Step::More)
    }

    /// Writes what is left of an earlier read.
    fn drain(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Leg,
        worker: &Worker,
    ) -> Result<usize, Step> {
        let Some(residue) = &mut self.residue else {
            return Ok(0);
        };
        if to.poll_writable(cx).is_pending() {
            return Err(Step::Waiting);
        }
        match to.write(&residue.bytes[residue.written..]) {
            Got::Bytes(n) => {
                residue.written += n;
                worker.unbuffered(n);
                if residue.written == residue.bytes.len() {
                    self.residue = None;
                }
                Ok(n)
            }
            Got::Blocked | Got::Eof => Ok(0),
            Got::Broken(failure) => Err(Step::ReceiverBroke(failure)),
        }
    }

    /// Reads once and writes it at once.
    fn copy(&mut self, from: &mut Leg, to: &mut Leg, worker: &Worker) -> Result<usize, Step> {
        let mut scratch = worker.scratch();
        let n = match from.read(&mut scratch) {
            Got::Bytes(n) => n,
            Got::Eof | Got::Blocked => return Ok(0),
            Got::Broken(failure) => return Err(Step::SenderBroke(failure)),
        };
        let written = match to.write(&scratch[..n]) {
            Got::Bytes(written) => written,
            Got::Blocked | Got::Eof => 0,
            Got::Broken(failure) => return Err(Step::ReceiverBroke(failure)),
        };
        if written < n {
            worker.buffered(n - written);
            self.residue = Some(Residue {
                bytes: scratch[written..n].into(),
                written: 0,
            });
        }
        Ok(written)
    }

    /// Whether bytes wait in it.
    pub(super) const fn holds_bytes(&self) -> bool {
        self.residue.is_some()
    }

    /// Gives back what it holds.
    pub(super) fn release(&mut self, worker: &Worker) {
        if let Some(residue) = self.residue.take() {
            worker.unbuffered(residue.bytes.len() - residue.written);
        }
    }
}
