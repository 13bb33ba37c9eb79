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
    http,
    log_output::DatapathMessages,
    netlink::link,
    reload::Reloader,
    shared::{Running, Shared},
    startup, warnings,
};

/// How often keys and clock are written: the clock counts seconds.
const TICK: Duration = Duration::from_secs(1);

/// Ticks between two looks at whether the interfaces still have the program.
const LINK_CHECK_TICKS: u64 = 5;

/// How long clients that were answered may still be admitted when levee stops: a round trip.
const LINGER: Duration = Duration::from_millis(500);

/// Reload requests that wait for the one being done.
const COMMANDS_MAX: usize = 8;

/// Runs levee until SIGINT or SIGTERM. `file` is where `config` came from and what a reload reads;
/// `None` for the command line.
///
/// # Errors
/// Says what keeps levee from starting. Once it runs, it stops only when it is told to.
pub async fn run(config: Config, file: Option<PathBuf>) -> Result<()> {
    let mut reload = on(SignalKind::hangup())?;
    let mut signals = StopSignals::new()?;
    let shared = Arc::new(Shared::new());
    let mut started = tokio::select! {
        started = start(&config, &shared) => started?,
        () = signals.stop() => return Ok(()),
    };
    let mut reloader = Reloader::new(config, file, Arc::clone(&shared));
    tokio::select! {
        () = keep_going(&shared, &mut started, &mut reload, &mut reloader) => {}
        () = signals.stop() => {}
    }
    stop(&shared, &mut signals).await;
    started.messages.flush();
    for task in started.tasks {
        task.end().await;
    }
    Ok(())
}

/// What a levee that runs needs, besides what is shared.
struct Started {
    messages: DatapathMessages,
    commands: mpsc::Receiver<Command>,
    tasks: Vec<Task>,
}

async fn start(config: &Config, shared: &Arc<Shared>) -> Result<Started> {
    let prepared = startup::prepare(config.clone())?;
    let (sender, commands) = mpsc::channel(COMMANDS_MAX);
    let socket = ControlSocket::bind(&config.control_socket)?;
    let mut tasks = vec![Task::spawn(ctl::serve(socket, Arc::clone(shared), sender))];
    if let Some(address) = config.metrics_listen {
        let listener = http::bind(address).await?;
        tasks.push(Task::spawn(http::serve(listener, Arc::clone(shared))));
    }
    let mut loaded = task::spawn_blocking(|| prepared.load()).await??;
    let messages = DatapathMessages::take(&mut loaded.ebpf)?;
    let running = loaded.attach()?;
    introduce(config, &running);
    shared.run(running);
    warnings::log_unreachable(&config.services);
    Ok(Started {
        messages,
        commands,
        tasks,
    })
}

async fn stop(shared: &Shared, signals: &mut StopSignals) {
    let Some(mut running) = shared.stop() else {
        return;
    };
    running.stop_answering();
    tokio::select! {
        () = time::sleep(LINGER) => {}
        () = signals.stop() => {}
    }
    drop(running);
    log::info!("detached from all interfaces; the kernel answers SYNs itself again");
}

/// Does what is due, until it is dropped.
async fn keep_going(
    shared: &Shared,
    started: &mut Started,
    reload: &mut Signal,
    reloader: &mut Reloader,
) {
    let mut upkeep = Upkeep {
        shared,
        messages: &mut started.messages,
        ticks: 0,
    };
    let commands = &mut started.commands;
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
            _ = reload.recv() => {
                // The reloader logs what came of it.
                let _ = reloader.reload().await;
            }
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
        let uptime_s = self.shared.uptime_s() as u32;
        let updated = self.shared.with(|running| {
            running.measure_rates()?;
            running.protection.tick(unix_s, uptime_s)
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
        if !attachment.link.up {
            let name = &attachment.link.name;
            log::warn!("{name} is down: nothing comes in there until `ip link set {name} up`");
        }
    }
    let names: Vec<_> = config.services.iter().map(|s| s.name.as_str()).collect();
    log::info!(
        "protecting {} service(s): {}",
        names.len(),
        warnings::first(&names)
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

fn on(kind: SignalKind) -> Result<Signal> {
    signal(kind).context("cannot handle signals")
}

/// The signals that ask levee to stop.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    fn new() -> Result<Self> {
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
        })
    }

    /// Waits for a signal to stop.
    async fn stop(&mut self) {
        let name = tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        };
        log::info!("{name}: stopping");
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
