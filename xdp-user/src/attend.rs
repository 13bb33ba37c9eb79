//! What the controller attends to while levee runs: the clock, commands, and a levee that takes
//! over.

use std::{convert::Infallible, future, time::Duration};

use anyhow::{Result, anyhow, bail, ensure};
use tokio::{
    signal::unix::Signal,
    sync::{mpsc, oneshot},
    time::{self, Interval, MissedTickBehavior},
};

use crate::{
    ctl::{self, Command, Reloaded},
    log_output::DatapathMessages,
    netlink::link,
    reload::Reloader,
    shared::Shared,
    startup,
    upgrade::{self, Program, Successor},
};

/// How often keys and clock are written: the clock counts seconds.
const TICK: Duration = Duration::from_secs(1);

/// Commands that wait while one is done: each client of the control socket has one.
pub const COMMANDS_MAX: usize = ctl::CLIENTS_MAX;

/// Ticks between two looks at whether the interfaces still have the program.
const LINK_CHECK_TICKS: u64 = 5;

/// What is attended to.
pub struct Attended {
    /// The data path's messages.
    pub messages: DatapathMessages,
    /// What clients of the control socket want done.
    pub commands: mpsc::Receiver<Command>,
    /// What an upgrade starts.
    pub program: Program,
    /// The levee that an upgrade has started.
    pub successor: Option<Successor>,
}

impl Attended {
    /// Does what is due, until another levee wants to take over: returns whom to tell when it may.
    pub async fn keep_going(
        &mut self,
        shared: &Shared,
        reload: &mut Signal,
        reloader: &mut Reloader,
    ) -> oneshot::Sender<Result<()>> {
        let mut upkeep = Upkeep { shared, ticks: 0 };
        let mut waiting = Vec::with_capacity(COMMANDS_MAX);
        let mut ticks = ticks();
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    upkeep.tick();
                    reloader.tick();
                    self.messages.flush();
                }
                1.. = self.commands.recv_many(&mut waiting, COMMANDS_MAX) => {
                    if let Some(asked) = self.obey(waiting.drain(..), shared, reloader).await {
                        return asked;
                    }
                }
                () = upgrade::ended(&mut self.successor) => self.successor = None,
                _ = reload.recv() => {
                    // The reloader logs what came of it.
                    let _ = reloader.reload().await;
                }
            }
        }
    }

    /// Does what clients want; returns whom to tell when all is to be left to another levee.
    async fn obey(
        &mut self,
        commands: impl Iterator<Item = Command>,
        shared: &Shared,
        reloader: &mut Reloader,
    ) -> Option<oneshot::Sender<Result<()>>> {
        let mut reloads = Vec::new();
        let mut leave = None;
        for command in commands {
            match command {
                Command::Reload(asked) => reloads.push(asked),
                Command::Upgrade(asked) => match self.may_be_succeeded(shared) {
                    Ok(()) => self.successor = self.program.start(asked),
                    Err(error) => refuse(asked, error),
                },
                Command::Leave(asked) => match is_pinned(shared) {
                    Ok(()) if leave.is_none() => leave = Some(asked),
                    Ok(()) => refuse(asked, anyhow!("another levee takes over already")),
                    Err(error) => refuse(asked, error),
                },
            }
        }
        if !reloads.is_empty() {
            // One for all who asked before it began: it reads what each of them wrote.
            answer(reloads, &reloader.reload().await);
        }
        leave
    }

    /// Does what is due while levee stops, and answers what can no longer be done.
    pub async fn stop(&mut self, shared: &Shared) -> Infallible {
        let mut ticks = ticks();
        loop {
            let stopping = anyhow!("levee is stopping");
            tokio::select! {
                _ = ticks.tick() => {
                    keep_time(shared);
                    self.messages.flush();
                }
                command = self.commands.recv() => match command {
                    Some(Command::Reload(asked)) => refuse(asked, stopping),
                    Some(Command::Upgrade(asked)) => refuse(asked, stopping),
                    Some(Command::Leave(asked)) => refuse(asked, stopping),
                    None => future::pending().await,
                }
            }
        }
    }

    fn may_be_succeeded(&self, shared: &Shared) -> Result<()> {
        if let Some(successor) = &self.successor {
            bail!("process {} is about to take over already", successor.pid);
        }
        is_pinned(shared)
    }
}

/// Whether another levee can take over.
fn is_pinned(shared: &Shared) -> Result<()> {
    let pinned = shared.with(|running| running.pinned_at().is_some());
    ensure!(
        pinned == Some(true),
        "the data path is not pinned (pin_dir is \"off\"): it ends with this levee, and no other can \
         take it over"
    );
    Ok(())
}

/// Tells all who asked for a reload what came of it.
fn answer(reloads: Vec<oneshot::Sender<Result<Reloaded>>>, result: &Result<Reloaded>) {
    for asked in reloads {
        let told = match result {
            Ok(reloaded) => Ok(reloaded.clone()),
            Err(error) => Err(anyhow!("{error:#}")),
        };
        if asked.send(told).is_err() {
            log::debug!("whoever asked for the reload did not wait for its result");
        }
    }
}

fn refuse<T>(asked: oneshot::Sender<Result<T>>, error: anyhow::Error) {
    // Whoever asked may be gone.
    let _ = asked.send(Err(error));
}

/// Ticks [each second](TICK), without those that were missed.
fn ticks() -> Interval {
    let mut ticks = time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

/// Writes keys and clock. A failure is logged and tried again a second later: the data path goes on
/// with what it has.
fn keep_time(shared: &Shared) {
    match startup::unix_s().and_then(|unix_s| shared.tick(unix_s)) {
        Ok(true) => log::debug!("a new epoch of cookie keys began"),
        Ok(false) => {}
        Err(error) => log::error!("cannot keep the data path up to date: {error:#}"),
    }
}

/// What is due every second while levee runs.
struct Upkeep<'a> {
    shared: &'a Shared,
    ticks: u64,
}

impl Upkeep<'_> {
    fn tick(&mut self) {
        keep_time(self.shared);
        if self.ticks.is_multiple_of(LINK_CHECK_TICKS) {
            self.check_links();
        }
        self.ticks += 1;
    }

    fn check_links(&self) {
        match link::links() {
            Ok(links) => {
                self.shared.with(|running| running.check_links(&links));
            }
            Err(error) => log::error!("{error:#}"),
        }
    }
}
