//! The running levee: starts it, keeps it going, reloads it and stops it.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
    task, time,
};

use crate::{
    attach::Mode,
    attend::{Attended, COMMANDS_MAX},
    config::Config,
    ctl::{self, Request},
    doors::Doors,
    engine::reason::CloseReason,
    log_output::DatapathMessages,
    proxy::info::Filter,
    proxying::Proxying,
    reap,
    reload::{Reloader, Strings},
    running::Running,
    services::Pools,
    shared::Shared,
    splicing::{Splicer, Splicing, ways},
    startup::{self, Former},
    task::Task,
    upgrade::{Program, Successor},
    warnings,
};

/// How long clients that were answered may still be admitted when levee stops: a round trip.
pub const LINGER: Duration = Duration::from_millis(500);

/// How often it is looked whether spliced connections have ended.
const DRAIN_LOOK: Duration = Duration::from_millis(200);

/// How often it is looked whether somebody still waits for the splice thread.
const SPLICER_LOOK: Duration = Duration::from_millis(5);

/// Runs levee until SIGINT or SIGTERM, or until another levee has taken over. `file` is where
/// `config` came from and what a reload reads; `None` for the command line. With `replace` it takes
/// over from the levee that runs with the same control socket, if there is one.
///
/// # Errors
/// Says what keeps levee from starting. Once it runs, it stops only when it is told to.
pub async fn run(config: Config, file: Option<PathBuf>, replace: bool) -> Result<()> {
    let program = Program::of_this_process()?;
    let mut reload = on(SignalKind::hangup())?;
    let mut signals = StopSignals::new()?;
    let shared = Arc::new(Shared::new());
    let former = if replace && ctl::answers(&config.control_socket) {
        Former::Leaving
    } else {
        Former::Dead
    };
    let mut started = tokio::select! {
        started = start(&config, &shared, former, program) => started?,
        () = signals.stop() => return Ok(()),
    };
    let strings = Strings {
        proxying: started.proxying,
        splicing: started.splicing,
    };
    let attended = &mut started.attended;
    let mut reloader = Reloader::new(config, file, Arc::clone(&shared), strings);
    let asked = tokio::select! {
        asked = attended.keep_going(&shared, &mut reload, &mut reloader) => Some(asked),
        () = signals.stop() => None,
    };
    let timeout = reloader.drain_timeout();
    let has_left = asked.is_some();
    if let Some(asked) = asked {
        let successor = attended.successor.as_mut();
        leave(&shared, &mut started.doors, successor, asked).await;
    }
    let end = async {
        if has_left {
            // The data path, and what it splices, is the other's.
            hurried_by(&mut signals, timeout, |end| drain_proxy(&shared, end)).await;
        } else {
            stop(&shared, timeout, &mut signals).await;
        }
    };
    tokio::select! {
        () = end => {}
        never = attended.stop(&shared) => match never {},
    }
    attended.messages.flush();
    started.doors.close().await;
    for task in started.tasks {
        task.end().await;
    }
    match started.attended.successor {
        Some(successor) => successor.check().await,
        None => Ok(()),
    }
}

/// What a levee that runs needs, besides what is shared.
struct Started {
    attended: Attended,
    proxying: Proxying,
    splicing: Option<Splicing>,
    doors: Doors,
    tasks: Vec<Task>,
}

async fn start(
    config: &Config,
    shared: &Arc<Shared>,
    former: Former,
    program: Program,
) -> Result<Started> {
    let prepared = startup::prepare(config.clone(), former)?;
    let (sender, commands) = mpsc::channel(COMMANDS_MAX);
    let doors = match former {
        Former::Dead => Some(Doors::open(config, shared, sender.clone()).await?),
        Former::Leaving => None,
    };
    // Before anything is attached: whoever proves himself finds the proxy listening.
    let mut proxying = Proxying::new(Arc::clone(shared), prepared.secret().clone(), former);
    let change = proxying.stage(&config.proxy, &config.services)?;
    proxying.commit(change);
    let mut splicing = Splicing::new(config);
    let mut pools = Pools::default();
    if let Some(splicing) = &splicing {
        // What clients are offered is known from their first SYN on.
        splicing.learned().await;
        pools = splicing.pools(None);
    }
    let mut loaded = task::spawn_blocking(|| prepared.load()).await??;
    proxying.resolved().await;
    let messages = DatapathMessages::take(&mut loaded.ebpf)?;
    let doors = match doors {
        Some(doors) => doors,
        None => {
            // Everything that can be refused has been asked, and the programs are loaded.
            let socket = config.control_socket.clone();
            task::spawn_blocking(move || ctl::request(&socket, Request::Leave)).await??;
            Doors::open(config, shared, sender).await?
        }
    };
    let telling = pools.clone();
    let mut told = task::spawn_blocking(move || loaded.tell(&telling)).await??;
    let splicer = match &mut splicing {
        Some(splicing) => Some(told.splice(splicing, &pools)?),
        None => None,
    };
    let running = told.attach()?;
    introduce(config, &running);
    let attached = running.attachments().map(|a| a.link.index).collect();
    shared.run(running);
    let mut tasks = Vec::new();
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
        attended: Attended {
            messages,
            commands,
            program,
            successor: None,
        },
        proxying,
        splicing,
        doors,
        tasks,
    })
}

/// Leaves the data path to another levee, as it is, and tells the one that asked for it.
async fn leave(
    shared: &Shared,
    doors: &mut Doors,
    successor: Option<&mut Successor>,
    asked: oneshot::Sender<Result<()>>,
) {
    shared.leave();
    stop_splicing(shared).await;
    doors.leave().await;
    log::info!("left the data path to another levee");
    if let Some(successor) = successor {
        successor.has_taken_over();
    }
    if asked.send(Ok(())).is_err() {
        log::error!("the levee that was to take over is gone: nobody controls the data path");
    }
}

/// Stops answering SYNs, lets those who were answered in, and waits for connections to end, of the
/// proxy and spliced ones. A signal ends every wait.
async fn stop(shared: &Shared, drain_timeout: Duration, signals: &mut StopSignals) {
    if !shared.stop_answering() {
        return;
    }
    let hurried = tokio::select! {
        () = time::sleep(LINGER) => false,
        () = signals.stop() => true,
    };
    let timeout = if hurried {
        Duration::ZERO
    } else {
        drain_timeout
    };
    let drained = |end| async move {
        tokio::join!(drain_proxy(shared, end), drain_spliced(shared, end));
    };
    hurried_by(signals, timeout, drained).await;
}

/// Waits for `drained` by its deadline, `timeout` from now, or by now as soon as there is a signal.
async fn hurried_by<F: Future<Output = ()>>(
    signals: &mut StopSignals,
    timeout: Duration,
    drained: impl Fn(Instant) -> F,
) {
    tokio::select! {
        () = drained(Instant::now() + timeout) => {}
        () = signals.stop() => drained(Instant::now()).await,
    }
}

/// Waits for the proxy's connections to end, and resets those that have not at `end`. Can be given
/// up, and begun again with an earlier one.
async fn drain_proxy(shared: &Shared, end: Instant) {
    let Some(proxy) = shared.proxy() else {
        return;
    };
    if proxy.connections() > 0 {
        introduce_drain("the proxy", proxy.connections(), end);
    }
    let report = proxy.drain(end).await;
    if report.reset > 0 {
        log::warn!(
            "{} connection(s) of the proxy had not ended and were reset",
            report.reset
        );
    }
}

/// Waits for spliced connections to end, resets those that have not at `end`, and detaches. Can be
/// given up, and begun again with an earlier one.
async fn drain_spliced(shared: &Shared, end: Instant) {
    if let Some(splicer) = shared.splice()
        && let Err(error) = end_spliced(&splicer, end).await
    {
        log::error!("cannot end the spliced connections: {error:#}");
    }
    shared.detach();
    log::info!("detached from all interfaces; the kernel answers SYNs itself again");
}

async fn end_spliced(splicer: &Splicer, end: Instant) -> Result<()> {
    let mut left = splicer.thread.open().await?;
    if left > 0 {
        introduce_drain("splice mode", left, end);
    }
    while left > 0 && Instant::now() < end {
        time::sleep(DRAIN_LOOK).await;
        left = splicer.thread.open().await?;
    }
    // Also those that are over: nobody forwards their last packets any more.
    let reason = CloseReason::DrainTimeout;
    splicer.thread.end(&Filter::default(), reason).await?;
    if left > 0 {
        log::warn!("{left} spliced connection(s) had not ended and were reset");
        // Whoever still sends is told once more, with the number that it expects.
        time::sleep(LINGER).await;
    }
    Ok(())
}

fn introduce_drain(whose: &str, connections: u64, end: Instant) {
    let left = end.saturating_duration_since(Instant::now());
    log::info!(
        "{whose} has {connections} connection(s) left: waiting up to {} s for them to end",
        left.as_secs_f64().ceil()
    );
}

/// Stops what opens spliced connections and takes them out again. The data path goes on with those
/// that are there.
async fn stop_splicing(shared: &Shared) {
    let Some(splicer) = shared.take_splice() else {
        return;
    };
    // A client of the control socket may still be waiting for its answer.
    while Arc::strong_count(&splicer.thread) > 1 {
        time::sleep(SPLICER_LOOK).await;
    }
}

/// Says what levee does, for whoever started it.
fn introduce(config: &Config, running: &Running) {
    let splices = config.services.iter().any(|s| s.splice().is_some());
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
        if splices && attachment.mode == Mode::Generic {
            log::warn!(
                "{}",
                warnings::splice::in_generic_mode(&attachment.link.name)
            );
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
