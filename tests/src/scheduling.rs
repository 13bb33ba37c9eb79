//! Which CPU does what: a lab on few cores measures nothing if its parts push each other aside.
use std::{process::Command, thread::available_parallelism};

use anyhow::{Context as _, Result, bail};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

/// A CPU for each of the two busy sides of the lab, sender and receiver; `None` where there is only
/// one, so that nothing is pinned.
#[must_use]
pub fn busy_cpus() -> Option<(usize, usize)> {
    let cpus = available_parallelism().ok()?.get();
    (cpus > 1).then_some((0, 1))
}

/// Pins a thread to one CPU.
///
/// # Errors
/// Fails when the CPU or the thread is not there.
pub fn pin_thread(id: Pid, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(id, &set).with_context(|| format!("cannot pin thread {id} to CPU {cpu}"))
}

/// Sets the nice value of a thread, -20 (first) to 19 (last).
///
/// # Errors
/// Fails when the thread is not there.
pub fn set_nice(id: Pid, nice: i32) -> Result<()> {
    let output = Command::new("renice")
        .args(["-n", &nice.to_string(), "-p", &id.to_string()])
        .output()
        .context("cannot run `renice`: is it installed?")?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("cannot set thread {id} to nice {nice}: {}", stderr.trim());
    }
    Ok(())
}
