//! What levee sees of other processes' connections: servers' sockets that are stuck in CLOSE_WAIT,
//! which it ends where that is wanted, and half-open ones in the kernel, which it counts.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    fs,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use netlink_packet_sock_diag::inet::StateFlags;
use tokio::{sync::watch, task::spawn_blocking, time::sleep_until};

use crate::{
    config::{Mode, Service},
    engine::Tick,
    netlink::sockets::{Destroyed, SocketRow, Sockets},
    proxy::stats::{Counter, Gauge},
};

mod close_wait;
mod first_seen;
#[cfg(test)]
mod leaking_server;
mod syn_recv;

use close_wait::{CloseWait, Found};
use syn_recv::SynRecv;

/// Between two samples of half-open connections, at least and at most.
const SAMPLE_PERIOD: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(30)];

/// After a sample, this many times as long as it took: the kernel walks all sockets of the machine
/// for it, and half a percent of a core is enough for that.
const SAMPLE_REST: u32 = 200;

/// A quarter of the shortest limit is between two sweeps, within these bounds. So a socket is ended
/// after between 1 and 1.25 times its limit, or a quarter minute later.
const SWEEP_PERIOD: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(15)];

/// A service whose connections are looked at.
#[derive(Debug)]
pub struct Watched {
    /// Its name: the metric label.
    pub name: String,
    /// Where clients connect to.
    pub address: SocketAddr,
    /// How long the server's sockets may be in CLOSE_WAIT; `None` for ever.
    pub reap_close_wait: Option<Duration>,
    /// What was seen and done.
    pub stats: Arc<KernelStats>,
}

/// What was seen and done of a service's sockets in the kernel.
#[derive(Debug, Default)]
pub struct KernelStats {
    /// Sockets ended because they were in CLOSE_WAIT for too long.
    pub reaped_close_wait: Counter,
    /// Half-open connections (SYN_RECV) at the last sample.
    pub syn_recv: Gauge,
    /// How long before the last sample the oldest of them was first seen, milliseconds.
    pub syn_recv_oldest_ms: Gauge,
}

impl Watched {
    /// A service as configured. What `previous` counted goes on.
    #[must_use]
    pub fn new(service: &Service, previous: Option<&Self>) -> Self {
        Self {
            name: service.name.clone(),
            address: service.address,
            reap_close_wait: match service.mode {
                Mode::Host(options) => options.reap_close_wait,
                Mode::Proxy(_) | Mode::Splice(_) => None,
            },
            stats: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.stats)),
        }
    }
}

/// Sweeps and samples for ever.
///
/// # Errors
/// Fails when there will be no more `services`.
pub async fn run(mut services: watch::Receiver<Vec<Arc<Watched>>>) -> Result<Infallible> {
    let mut reaper = Reaper::new();
    let mut said = None;
    loop {
        let current = Arc::new(Services::new(&services.borrow_and_update()));
        // They may have been added with a period that is shorter.
        reaper.next_sweep = reaper.next_sweep.min(Instant::now());
        if current.sweep_period.is_some() {
            warn_if_unsupported().await?;
        }
        loop {
            let next = current.sweep_period.map_or(reaper.next_sample, |_| {
                reaper.next_sweep.min(reaper.next_sample)
            });
            tokio::select! {
                () = sleep_until(next.into()) => {}
                changed = services.changed() => {
                    changed.context("the services are gone")?;
                    break;
                }
            }
            let looked_at = Arc::clone(&current);
            // The kernel's answers may be long.
            let (back, result) = spawn_blocking(move || {
                let result = reaper.look(&looked_at);
                (reaper, result)
            })
            .await?;
            reaper = back;
            let trouble = result.err().map(|error| format!("{error:#}"));
            if let Some(trouble) = &trouble
                && said.as_ref() != Some(trouble)
            {
                log::warn!("cannot look after sockets: {trouble}");
            }
            said = trouble;
        }
    }
}

async fn warn_if_unsupported() -> Result<()> {
    let can = spawn_blocking(|| Sockets::open()?.can_destroy()).await?;
    match can {
        Ok(true) => {}
        Ok(false) => log::warn!(
            "this kernel cannot end sockets in CLOSE_WAIT (CONFIG_INET_DIAG_DESTROY is not set): \
             reap_close_wait does nothing"
        ),
        Err(error) => log::warn!("cannot tell whether this kernel can end sockets: {error:#}"),
    }
    Ok(())
}

/// The services by where clients connect to.
struct Services {
    watched: Vec<Arc<Watched>>,
    by_address: HashMap<(IpAddr, u16), usize>,
    /// The port of all whose sockets may be ended, if it is one.
    reaped_port: Option<u16>,
    sweep_period: Option<Duration>,
}

impl Services {
    fn new(watched: &[Arc<Watched>]) -> Self {
        let key = |service: &Watched| (service.address.ip(), service.address.port());
        let reaped = || watched.iter().filter(|s| s.reap_close_wait.is_some());
        let ports: HashSet<u16> = reaped().map(|service| service.address.port()).collect();
        let shortest = watched.iter().filter_map(|s| s.reap_close_wait).min();
        let [min, max] = SWEEP_PERIOD;
        Self {
            by_address: (0..).zip(watched).map(|(n, s)| (key(s), n)).collect(),
            reaped_port: match ports.len() {
                1 => ports.into_iter().next(),
                _ => None,
            },
            sweep_period: shortest.map(|limit| (limit / 4).clamp(min, max)),
            watched: watched.to_vec(),
        }
    }

    /// Position of the service that a socket belongs to.
    fn of(&self, socket: &SocketRow) -> Option<usize> {
        let key = (socket.local.ip(), socket.local.port());
        self.by_address.get(&key).copied()
    }
}

/// What is remembered between looks.
struct Reaper {
    start: Instant,
    close_wait: CloseWait,
    syn_recv: SynRecv,
    next_sweep: Instant,
    next_sample: Instant,
}

impl Reaper {
    fn new() -> Self {
        let start = Instant::now();
        Self {
            start,
            close_wait: CloseWait::new(),
            syn_recv: SynRecv::new(),
            next_sweep: start,
            next_sample: start,
        }
    }

    /// Does what is due.
    fn look(&mut self, services: &Services) -> Result<()> {
        let time = Instant::now();
        let now = Tick::of(time.duration_since(self.start));
        if self.next_sample <= time {
            let sampled = self.sample(services, now);
            self.next_sample = time + sample_period(time.elapsed());
            sampled?;
        }
        if let Some(period) = services.sweep_period
            && self.next_sweep <= time
        {
            self.next_sweep = time + period;
            if self.sweep(services, now)? {
                let [soon, _] = SWEEP_PERIOD;
                self.next_sweep = time + soon;
            }
        }
        Ok(())
    }

    fn sample(&mut self, services: &Services, now: Tick) -> Result<()> {
        let mut sample = self.syn_recv.sample(now, services.watched.len());
        Sockets::open()?.dump(&StateFlags::SYN_RECV, None, |socket| {
            if let Some(service) = services.of(&socket) {
                sample.take(socket.cookie, service);
            }
        })?;
        for (service, found) in services.watched.iter().zip(sample.end()) {
            let gauges = [
                (&service.stats.syn_recv, found.depth),
                (&service.stats.syn_recv_oldest_ms, found.oldest_ms),
            ];
            for (gauge, value) in gauges {
                gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            }
        }
        Ok(())
    }

    /// Ends what has been in CLOSE_WAIT for too long; whether there is more of it.
    fn sweep(&mut self, services: &Services, now: Tick) -> Result<bool> {
        let mut sockets = Sockets::open()?;
        let mut sweep = self.close_wait.sweep(now);
        sockets.dump(&StateFlags::CLOSE_WAIT, services.reaped_port, |socket| {
            let service = services.of(&socket).map(|n| &services.watched[n]);
            if let Some(service) = service
                && let Some(limit) = service.reap_close_wait
            {
                let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                sweep.judge(socket.cookie, limit_ms, (socket, service));
            }
        })?;
        let Found {
            expired,
            more,
            left_out,
        } = sweep.end();
        if left_out > 0 {
            log::warn!("{left_out} more sockets are in CLOSE_WAIT than are remembered at a time");
        }
        if expired.is_empty() {
            return Ok(false);
        }
        let own = own_inodes()?;
        for (socket, service) in expired {
            // A connection of levee's own may have the same local address and port, as one to a
            // backend, when no server listens there.
            if own.contains(&u64::from(socket.inode)) {
                continue;
            }
            if sockets.destroy(&socket)? == Destroyed::Now {
                service.stats.reaped_close_wait.count();
                log::debug!(
                    "service {}: ended the connection of {}, in CLOSE_WAIT for too long",
                    service.name,
                    socket.peer
                );
            }
        }
        Ok(more)
    }
}

/// From the begin of a sample that took this long to that of the next.
fn sample_period(took: Duration) -> Duration {
    let [min, max] = SAMPLE_PERIOD;
    (took * SAMPLE_REST).clamp(min, max)
}

/// Inodes of this process's sockets.
fn own_inodes() -> Result<HashSet<u64>> {
    let mut inodes = HashSet::new();
    for entry in fs::read_dir("/proc/self/fd").context("cannot read /proc/self/fd")? {
        // A descriptor may be closed by the time that it is looked at.
        let Ok(target) = entry.and_then(|entry| fs::read_link(entry.path())) else {
            continue;
        };
        let target = target.to_string_lossy();
        let inode = target
            .strip_prefix("socket:[")
            .and_then(|rest| rest.strip_suffix(']'));
        inodes.extend(inode.and_then(|inode| inode.parse::<u64>().ok()));
    }
    Ok(inodes)
}

#[cfg(test)]
mod tests;
