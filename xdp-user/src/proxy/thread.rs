//! The threads that workers run in.

use std::{
    io,
    rc::Rc,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Instant,
};

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use tokio::{
    runtime::{Builder, LocalOptions, LocalRuntime},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::spawn_local,
};

use super::{
    shared::Shared,
    stats::WorkerStats,
    worker::{Command, Worker},
};
use crate::task::EndsAll;

/// Tasks polled between two looks at the sockets. tokio's default is 61; with few syscalls per
/// task a lower number keeps latency even.
const EVENT_INTERVAL: u32 = 31;

/// A running worker, as the rest of the process sees it. Ends when dropped, with everything it
/// has open.
#[derive(Debug)]
pub(super) struct WorkerThread {
    /// What it counts.
    pub(super) stats: Arc<WorkerStats>,
    commands: Option<UnboundedSender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl WorkerThread {
    /// Starts worker number `index`, on CPU `cpu` only if there is one.
    ///
    /// # Errors
    /// Fails when the system gives no thread or no event queue.
    pub(super) fn start(
        index: u16,
        cpu: Option<usize>,
        start: Instant,
        shared: Arc<Shared>,
    ) -> Result<Self> {
        let stats = Arc::new(WorkerStats::default());
        let (commands, queue) = unbounded_channel();
        let (ready, started) = mpsc::channel();
        let counted = Arc::clone(&stats);
        let body = move || {
            let _ends_all = EndsAll("the proxy");
            let runtime = match prepare(cpu) {
                Ok(runtime) => runtime,
                Err(error) => return ready.send(Err(error)).unwrap_or_default(),
            };
            // Before anybody connects: it keeps a descriptor for when there is no other.
            let worker = Worker::new(index, start, counted, shared);
            // Fails only when nobody waits for it, and then the queue is closed as well.
            ready.send(Ok(())).ok();
            run(&runtime, worker, queue);
        };
        let thread = thread::Builder::new()
            .name(format!("levee-proxy-{index}"))
            .spawn(body)
            .context("cannot start a thread for the proxy")?;
        let worker = Self {
            stats,
            commands: Some(commands),
            thread: Some(thread),
        };
        started
            .recv()
            .context("a thread of the proxy ended at once")?
            .context("cannot set up a thread of the proxy")?;
        Ok(worker)
    }

    /// Asks it to do something. False when it is gone.
    pub(super) fn send(&self, command: Command) -> bool {
        self.commands
            .as_ref()
            .is_some_and(|commands| commands.send(command).is_ok())
    }
}

impl Drop for WorkerThread {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has ended the process.
            thread.join().ok();
        }
    }
}

fn prepare(cpu: Option<usize>) -> io::Result<LocalRuntime> {
    if let Some(cpu) = cpu {
        let mut set = CpuSet::new();
        set.set(cpu)?;
        sched_setaffinity(Pid::from_raw(0), &set)?;
    }
    Builder::new_current_thread()
        .enable_all()
        .event_interval(EVENT_INTERVAL)
        .build_local(LocalOptions::default())
}

fn run(runtime: &LocalRuntime, worker: Worker, queue: UnboundedReceiver<Command>) {
    let worker = Rc::new(worker);
    runtime.block_on(async {
        spawn_local(Rc::clone(&worker).watch_deadlines());
        spawn_local(Rc::clone(&worker).look_around());
        // When this ends, so does everything else that was spawned.
        worker.run(queue).await;
    });
}

/// The CPUs that this process may use; empty when the system does not tell.
pub(super) fn allowed_cpus() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else {
        return Vec::new();
    };
    (0..CpuSet::count())
        .filter(|&cpu| set.is_set(cpu).unwrap_or(false))
        .collect()
}
