//! The running levee: starts it, keeps it going, reloads it and stops it.

use std::{
    convert::Infallible,
    future,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task,
    time::{self, MissedTickBehavior},
};

use crate::{
    config::Config,
    ctl::{self, Command, ControlSocket, Reloaded},
    engine::reason::CloseReason,
    http,
    log_output::DatapathMessages,
    netlink::link,
    proxy::info::Filter,
    proxying::Proxying,
    reap,
    reload::{Reloader, Strings},
    running::Running,
    services::Pools,
    shared::Shared,
    splicing::{Splicer, Splicing, ways},
    startup,
    task::Task,
    warnings,
};

/// How often keys and clock are written: the clock counts seconds.
const TICK: Duration = Duration::from_secs(1);

/// Ticks between two looks at whether the interfaces still have the program.
const LINK_CHECK_TICKS: u64 = 5;

/// How long clients that were answered may still be admitted when levee stops: a round trip.
pub const LINGER: Duration = Duration::from_millis(500);

/// Requests that wait while a reload is done: each client has one.
const COMMANDS_MAX: usize = ctl::CLIENTS_MAX;

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
    let strings = Strings {
        proxying: started.proxying,
        splicing: started.splicing,
    };
    let mut reloader = Reloader::new(config, file, Arc::clone(&shared), strings);
    tokio::select! {
        () = keep_going(&shared, &mut started.attended, &mut reload, &mut reloader) => {}
        () = signals.stop() => {}
    }
    let drain_timeout = reloader.drain_timeout();
    tokio::select! {
        () = stop(&shared, drain_timeout, &mut signals) => {}
        never = refuse(&mut started.attended.commands) => match never {},
    }
    started.attended.messages.flush();
    for task in started.tasks {
        task.end().await;
    }
    Ok(())
}

/// What a levee that runs needs, besides what is shared.
struct Started {
    attended: Attended,
    proxying: Proxying,
    splicing: Option<Splicing>,
    tasks: Vec<Task>,
}

/// What is attended to as long as levee runs.
struct Attended {
    messages: DatapathMessages,
    commands: mpsc::Receiver<Command>,
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
    // Before anything is attached: whoever proves himself finds the proxy listening.
    let mut proxying = Proxying::new(Arc::clone(shared), prepared.secret().clone());
    let change = proxying.stage(&config.proxy, &config.services)?;
    proxying.commit(change);
    let mut splicing = Splicing::new(config);
    let mut pools = Pools::default();
    if let Some(splicing) = &splicing {
        // What clients are offered is known from their first SYN on.
        splicing.learned().await;
        pools = splicing.pools(None);
    }
    let loading = pools.clone();
    let mut loaded = task::spawn_blocking(move || prepared.load(&loading)).await??;
    proxying.resolved().await;
    let splicer = match &mut splicing {
        Some(splicing) => Some(loaded.splice(splicing, &pools)?),
        None => None,
    };
    let messages = DatapathMessages::take(&mut loaded.ebpf)?;
    let running = loaded.attach()?;
    introduce(config, &running);
    let attached = running.attachments().map(|a| a.link.index).collect();
    shared.run(running);
    if let Some((splicer, finder)) = splicer {
        let spliced = Arc::clone(&splicer.spliced);
        shared.set_splice(splicer);
        let ways = ways::run(Arc::clone(shared), spliced, attached, finder);
        tasks.push(Task::spawn(ways));
    }
    shared.watch(&config.services);
    tasks.push(Task::spawn(reap::run(shared.watched())));
    warnings::log_all(config);
    Ok(Started {
        attended: Attended { messages, commands },
        proxying,
        splicing,
        tasks,
    })
}

/// Stops answering SYNs, lets those who were answered in, and waits for the proxy's connections to
/// end. A signal ends every wait.
async fn stop(shared: &Shared, drain_timeout: Duration, signals: &mut StopSignals) {
    if !shared.stop_answering() {
        return;
    }
    if let Some(splicer) = shared.splice() {
        end_spliced(&splicer).await;
    }
    let hurried = tokio::select! {
        () = time::sleep(LINGER) => false,
        () = signals.stop() => true,
    };
    shared.detach();
    log::info!("detached from all interfaces; the kernel answers SYNs itself again");
    let Some(proxy) = shared.proxy() else {
        return;
    };
    let timeout = if hurried {
        Duration::ZERO
    } else {
        drain_timeout
    };
    if proxy.connections() > 0 {
        log::info!(
            "the proxy has {} connection(s) left: waiting up to {} s for them to end",
            proxy.connections(),
            timeout.as_secs()
        );
    }
    let report = tokio::select! {
        report = proxy.drain(Instant::now() + timeout) => report,
        () = signals.stop() => proxy.drain(Instant::now()).await,
    };
    if report.reset > 0 {
        log::warn!(
            "{} connection(s) of the proxy had not ended and were reset",
            report.reset
        );
    }
}

/// Tells both ends of spliced connections that nobody forwards their packets any more.
async fn end_spliced(splicer: &Splicer) {
    let reason = CloseReason::DrainTimeout;
    match splicer.thread.end(&Filter::default(), reason).await {
        Ok(0) => {}
        Ok(ended) => log::warn!("{ended} spliced connection(s) were reset"),
        Err(error) => log::error!("cannot end the spliced connections: {error:#}"),
    }
}

/// Answers what can no longer be done.
async fn refuse(commands: &mut mpsc::Receiver<Command>) -> Infallible {
    loop {
        match commands.recv().await {
            Some(Command::Reload(reply)) => {
                // Whoever asked may be gone.
                let _ = reply.send(Err(anyhow!("levee is stopping")));
            }
            None => future::pending().await,
        }
    }
}

/// Does what is due, until it is dropped.
async fn keep_going(
    shared: &Shared,
    attended: &mut Attended,
    reload: &mut Signal,
    reloader: &mut Reloader,
) {
    let mut upkeep = Upkeep {
        shared,
        messages: &mut attended.messages,
        ticks: 0,
    };
    let commands = &mut attended.commands;
    let mut waiting = Vec::with_capacity(COMMANDS_MAX);
    let mut ticks = time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                upkeep.tick();
                reloader.tick();
            }
            // One reload for all who asked before it began: it reads what each of them wrote.
            1.. = commands.recv_many(&mut waiting, COMMANDS_MAX) => {
                answer(waiting.drain(..), &reloader.reload().await);
            }
            _ = reload.recv() => {
                // The reloader logs what came of it.
                let _ = reloader.reload().await;
            }
        }
    }
}

/// Tells all who asked for a reload what came of it.
fn answer(waiting: impl Iterator<Item = Command>, result: &Result<Reloaded>) {
    for Command::Reload(reply) in waiting {
        let told = match result {
            Ok(reloaded) => Ok(reloaded.clone()),
            Err(error) => Err(anyhow!("{error:#}")),
        };
        if reply.send(told).is_err() {
            log::debug!("whoever asked for the reload did not wait for its result");
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
            running.measure(uptime_s)?;
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
        for warning in warnings::of_link(&attachment.link) {
            log::warn!("{warning}");
        }
    }
    let names: Vec<_> = config.services.iter().map(|s| s.name.as_str()).collect();
    log::info!(
        "protecting {} service(s): {}",
        names.len(),
        warnings::first(&names)
    );
    match running.pinned_at() {
        Some(directory) if running.adopted() => log::info!(
            "took over the data path pinned at {}: counters and keys go on",
            directory.display()
        ),
        Some(directory) => log::info!(
            "the data path is pinned at {}: it goes on if this process dies",
            directory.display()
        ),
        None => log::info!("the data path is not pinned: it ends with this process"),
    }
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
