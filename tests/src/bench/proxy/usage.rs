//! What a proxy costs: CPU time, its interfaces' receive threads included, and memory.
use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use nix::unistd::Pid;

/// CPU time so far.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::bench) struct Usage {
    /// Of the proxy's own threads, with the kernel's work in their system calls.
    pub(in crate::bench) process: Duration,
    /// Of the threads that receive for its interfaces, XDP included.
    pub(in crate::bench) receiving: Duration,
}

impl Usage {
    /// Reads both.
    pub(in crate::bench) fn read(process: Option<u32>, receivers: &[Pid]) -> Result<Self> {
        let mut usage = Self::default();
        if let Some(id) = process {
            let tasks = format!("/proc/{id}/task");
            for task in fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))? {
                let path = task?.path().join("schedstat");
                usage.process += on_cpu(&path.display().to_string())?;
            }
        }
        for id in receivers {
            usage.receiving += on_cpu(&format!("/proc/{id}/schedstat"))?;
        }
        Ok(usage)
    }

    /// Since an earlier reading. Threads that have ended in between are not missed: none of these
    /// programs ends threads under load.
    pub(in crate::bench) fn since(&self, earlier: &Self) -> Self {
        Self {
            process: self.process.saturating_sub(earlier.process),
            receiving: self.receiving.saturating_sub(earlier.receiving),
        }
    }

    pub(in crate::bench) fn total(&self) -> Duration {
        self.process + self.receiving
    }
}

/// Resident memory of a process that is its own, KiB: what it has written, without its program text.
pub(in crate::bench) fn resident_kib(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("no RssAnon in {path}"))
}

/// Time on a CPU: the first number of schedstat, nanoseconds.
fn on_cpu(path: &str) -> Result<Duration> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let ns = text
        .split_whitespace()
        .next()
        .and_then(|ns| ns.parse().ok());
    ns.map(Duration::from_nanos)
        .with_context(|| format!("unexpected content of {path}: {text}"))
}
