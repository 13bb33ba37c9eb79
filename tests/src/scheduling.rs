//! Which CPU does what: a lab on few cores measures nothing if its parts push each other aside.
use std::{fs, process::Command};

use anyhow::{Context as _, Result, bail};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// A CPU for each of the two busy sides of the lab, sender and receiver, on different cores if
/// there are two; `None` where only one CPU may be used, so that nothing is pinned.
#[must_use]
pub fn busy_cpus() -> Option<(usize, usize)> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).ok()?;
    let mut cpus = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false));
    let sender = cpus.next()?;
    let others: Vec<usize> = cpus.collect();
    let siblings = siblings(sender);
    let on_another_core = others.iter().find(|cpu| !siblings.contains(cpu));
    Some((sender, *on_another_core.or(others.first())?))
}

/// The CPUs that share a core with this one, as far as the kernel says.
fn siblings(cpu: usize) -> Vec<usize> {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    // Without the file, as on some virtual machines, nothing is known to share a core.
    parse_cpu_list(&fs::read_to_string(path).unwrap_or_default())
}

/// Parses the kernel's lists of CPUs, such as `0,4` and `0-1`; what is not one is skipped.
fn parse_cpu_list(text: &str) -> Vec<usize> {
    let ranges = text.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse().ok()?..=last.parse().ok()?)
    });
    ranges.flatten().collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists() {
        assert_eq!(parse_cpu_list("0,4\n"), [0, 4]);
        assert_eq!(parse_cpu_list("0-2,8"), [0, 1, 2, 8]);
        assert!(parse_cpu_list("").is_empty());
    }

    #[test]
    fn sender_and_receiver_differ() {
        if let Some((sender, receiver)) = busy_cpus() {
            assert_ne!(sender, receiver);
        }
    }
}
