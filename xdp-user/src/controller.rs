//! The running levee: starts it, keeps it going, reloads it and stops it.

use std::{convert::Infallible, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::{self, JoinHandle},
    time::{self, MissedTickBehavior},
};

use crate::{
    config::Config,
    ctl::{self, Command, ControlSocket},
    http, listening,
    log_output::DatapathMessages,
    netlink::link,
    reload::Reloader,
    shared::{Running, Shared},
    startup,
};

/// How often keys and clock are written: the clock counts seconds.
const TICK: Duration = Duration::from_secs(1);

/// Ticks between two looks at whether the interfaces still have the program.
const LINK_CHECK_TICKS: u64 = 5;

/// Reload requests that wait for the one being done.
const COMMANDS_MAX: usize = 8;

/// Runs levee until SIGINT or SIGTERM. `file` is where `config` came from and what a reload reads;
/// `None` for the command line.
///
/// # Errors
/// Says what keeps levee from starting. Once it runs, it stops only when it is told to.
pub async fn run(config: Config, file: Option<PathBuf>) -> Result<()> {
    let mut signals = Signals::new()?;
    let shared = Arc::new(Shared::new());
    let prepared = startup::prepare(config.clone())?;
    let (sender, commands) = mpsc::channel(COMMANDS_MAX);
    let socket = ControlSocket::bind(&config.control_socket)?;
    let control = Task::spawn(ctl::serve(socket, Arc::clone(&shared), sender));
    let metrics = match config.metrics_listen {
        Some(address) => {
            let listener = http::bind(address).await?;
            Some(Task::spawn(http::serve(listener, Arc::clone(&shared))))
        }
        None => None,
    };
    let mut loaded = task::spawn_blocking(|| prepared.load()).await??;
    let mut messages = DatapathMessages::take(&mut loaded.ebpf)?;
    let running = loaded.attach()?;
    introduce(&config, &running);
    shared.run(running);
    listening::warn(&config.services);
    let mut reloader = Reloader::new(config, file, Arc::clone(&shared));
    let upkeep = Upkeep {
        shared: &shared,
        messages: &mut messages,
        ticks: 0,
    };
    keep_going(upkeep, &mut signals, commands, &mut reloader).await;
    shared.stop();
    messages.flush();
    log::info!("detached from all interfaces; the kernel answers SYNs itself again");
    for task in [Some(control), metrics].into_iter().flatten() {
        task.end().await;
    }
    Ok(())
}

async fn keep_going(
    mut upkeep: Upkeep<'_>,
    signals: &mut Signals,
    mut commands: mpsc::Receiver<Command>,
    reloader: &mut Reloader,
) {
    let mut ticks = time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = ticks.tick() => upkeep.tick(),
            Some(command) = commands.recv() => match command {
                Command::Reload(reply) => {
                    let result = reloader.reload().await;
                    if reply.send(result).is_err() {
                        log::debug!("whoever asked for the reload did not wait for its result");
                    }
                }
            },
            _ = signals.reload.recv() => {
                // The reloader logs what came of it.
                let _ = reloader.reload().await;
            }
            _ = signals.interrupt.recv() => return log::info!("SIGINT: stopping"),
            _ = signals.terminate.recv() => return log::info!("SIGTERM: stopping"),
        }
    }
}

/// What is due every second. A failure is logged and tried again a second later: the data path
/// goes on with what it has.
struct Upkeep<'a> {
    shared: &'a Shared,
    messages: &'a mut DatapathMessages,
    ticks: u64,
}

impl Upkeep<'_> {
    fn tick(&mut self) {
        match self.update() {
            Ok(true) => log::debug!("a new epoch of cookie keys began"),
            Ok(false) => {}
            Err(error) => log::error!("cannot keep the data path up to date: {error:#}"),
        }
        self.messages.flush();
        if self.ticks.is_multiple_of(LINK_CHECK_TICKS) {
            self.check_links();
        }
        self.ticks += 1;
    }

    /// True when a new epoch of keys began.
    fn update(&self) -> Result<bool> {
        let unix_s = startup::unix_s()?;
        // Wraps after 136 years; the data path takes differences.
        let clock_s = self.shared.uptime_s() as u32;
        let updated = self.shared.with(|running| {
            running.measure_rates()?;
            running.protection.tick(unix_s, clock_s)
        });
        updated.unwrap_or(Ok(false))
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

/// Says what levee does, for whoever started it.
fn introduce(config: &Config, running: &Running) {
    for attachment in running.attachments() {
        log::info!(
            "attached to {} (index {}, MTU {}) in {} mode",
            attachment.link.name,
            attachment.link.index,
            attachment.link.mtu,
            attachment.mode.label()
        );
    }
    let names: Vec<_> = config.services.iter().map(|s| s.name.as_str()).collect();
    log::info!(
        "protecting {} service(s): {}",
        names.len(),
        listening::first(&names)
    );
    match config.metrics_listen {
        Some(address) => log::info!("metrics at http://{address}/metrics"),
        None => log::info!("metrics are off"),
    }
    log::info!(
        "ready; `levee status` shows what it does (control socket {})",
        config.control_socket.display()
    );
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    reload: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let on = |kind| signal(kind).context("cannot handle signals");
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            reload: on(SignalKind::hangup())?,
        })
    }
}

/// A task that ends with the value.
struct Task(JoinHandle<()>);

impl Task {
    fn spawn(task: impl Future<Output = Result<Infallible>> + Send + 'static) -> Self {
        Self(tokio::spawn(async {
            let Err(error) = task.await;
            log::error!("{error:#}");
        }))
    }

    /// Ends the task, and waits until it has cleaned up.
    async fn end(mut self) {
        self.0.abort();
        // Cancelled is what it should be.
        let _ = (&mut self.0).await;
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
