//! Pipes, through which splice(2) moves bytes from socket to socket without copying them.
//!
//! A pipe that still holds bytes is never used again: they would be another client's.

use std::os::fd::OwnedFd;

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    unistd::pipe2,
};

use super::stats::WorkerStats;

/// What a pipe is to hold, bytes. Users without privileges get less when they have many pipes.
pub(super) const PIPE_LEN: usize = 256 << 10;

/// Empty pipes that a worker keeps.
const IDLE_MAX: usize = 64;

/// A pipe and how many bytes are in it.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) reader: OwnedFd,
    pub(super) writer: OwnedFd,
    pub(super) len: usize,
}

/// The pipes of a worker.
#[derive(Debug)]
pub(super) struct PipePool {
    idle: Vec<Pipe>,
    used: u32,
    max: u32,
}

impl PipePool {
    /// With `max` pipes at most.
    pub(super) const fn new(max: u32) -> Self {
        Self {
            idle: Vec::new(),
            used: 0,
            max,
        }
    }

    /// An empty pipe; `None` when all are in use, or the system gives none.
    pub(super) fn take(&mut self, stats: &WorkerStats) -> Option<Pipe> {
        if self.used >= self.max {
            return None;
        }
        let pipe = self.idle.pop().or_else(make)?;
        self.used += 1;
        self.show(stats);
        Some(pipe)
    }

    /// Takes a pipe back, or throws it away when bytes are left in it.
    pub(super) fn put(&mut self, pipe: Pipe, stats: &WorkerStats) {
        self.used -= 1;
        if pipe.len > 0 {
            stats.pipes_discarded.count();
        } else if self.idle.len() < IDLE_MAX {
            self.idle.push(pipe);
        }
        self.show(stats);
    }

    fn show(&self, stats: &WorkerStats) {
        stats.pipes_in_use.set(self.used.into());
        stats.pipes_idle.set(self.idle.len() as i64);
    }
}

fn make() -> Option<Pipe> {
    let (reader, writer) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).ok()?;
    // Where this fails the pipe holds what the system gives it, 64 KiB or less, and works.
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(PIPE_LEN as i32)).ok();
    Some(Pipe {
        reader,
        writer,
        len: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_with_bytes_in_it_is_not_used_again() {
        let stats = WorkerStats::default();
        let mut pool = PipePool::new(1);
        let mut pipe = pool.take(&stats).unwrap();
        assert!(pool.take(&stats).is_none());
        assert_eq!(stats.pipes_in_use.get(), 1);
        nix::unistd::write(&pipe.writer, b"secret").unwrap();
        pipe.len = 6;
        pool.put(pipe, &stats);
        assert_eq!(stats.pipes_discarded.get(), 1);
        assert_eq!(stats.pipes_idle.get(), 0);

        let pipe = pool.take(&stats).unwrap();
        let read = nix::unistd::read(&pipe.reader, &mut [0; 8]);
        assert_eq!(read, Err(nix::errno::Errno::EAGAIN));
        pool.put(pipe, &stats);
        assert_eq!((stats.pipes_in_use.get(), stats.pipes_idle.get()), (0, 1));
    }
}
