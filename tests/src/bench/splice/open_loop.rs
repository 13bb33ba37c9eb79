//! New connections at a rate that does not wait for answers, from tuples that are never used again.
use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
    runtime::Builder,
    task::{JoinSet, LocalSet},
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    bench::proxy::{
        backend::{CLOSE, spawn},
        load::From,
    },
    proxy_lab::more_clients,
};

/// How long a connection may take from its first SYN to its last byte: no retransmitted SYN fits in.
const LIMIT: Duration = Duration::from_secs(1);
/// How often connections are opened: as many at once as are due.
const TICK: Duration = Duration::from_millis(1);
/// Connections at a time; beyond, they fail before they are opened.
const PENDING_MAX: usize = 4096;
const PORTS: std::ops::Range<u16> = 10_240..65_535;

/// The addresses and ports of a lab's client, each handed out once.
#[derive(Debug, Default)]
pub(super) struct Tuples(u32);

impl Tuples {
    /// All addresses take turns, so that no tuple is near to being used again.
    fn next(&mut self) -> Option<SocketAddr> {
        let addresses = more_clients().count() as u32;
        let address = more_clients().nth((self.0 % addresses) as usize)?;
        let port = u32::from(PORTS.start) + self.0 / addresses;
        let port = u16::try_from(port).ok().filter(|port| PORTS.contains(port));
        self.0 += 1;
        Some(SocketAddr::new(IpAddr::V4(address), port?))
    }

    fn take(&mut self, count: usize) -> Result<Vec<SocketAddr>> {
        let tuples: Option<Vec<_>> = (0..count).map(|_| self.next()).collect();
        tuples.context("the client has no unused port left")
    }
}

/// What each connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Sends a request and reads the answer to its end.
    Request,
    /// Reads what the server says first to its end.
    Banner,
}

/// How a successful connection went.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// From the SYN until the client took it for open.
    pub(super) connected: Duration,
    /// From the SYN to the first byte from the server.
    pub(super) first_byte: Duration,
}

/// What a number of connections came to.
#[derive(Debug, Default)]
pub(super) struct Opened {
    /// Connections that were due.
    pub(super) due: usize,
    /// Those that succeeded.
    pub(super) samples: Vec<Sample>,
    /// How long it took to open all.
    pub(super) elapsed: Duration,
}

/// Opens `rate` connections per second for this long, and waits until all have ended.
pub(super) fn open(
    from: &From,
    tuples: &mut Tuples,
    kind: Kind,
    rate: u64,
    length: Duration,
) -> Result<Opened> {
    let count = (rate as f64 * length.as_secs_f64()) as usize;
    let sources = tuples.take(count)?;
    let target = from.target;
    let thread = spawn(&from.netns, from.cpu, move || {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, drive(target, kind, rate, &sources))
    })?;
    thread.join().map_err(|_| anyhow!("the load panicked"))?
}

async fn drive(
    target: SocketAddr,
    kind: Kind,
    rate: u64,
    sources: &[SocketAddr],
) -> Result<Opened> {
    let mut opened = Opened {
        due: sources.len(),
        ..Opened::default()
    };
    let mut ticks = interval(TICK);
    // What could not be opened in time is opened as soon as possible: the load does not give way.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut pending = JoinSet::new();
    let mut collect = |ended: Result<Option<Sample>, tokio::task::JoinError>| -> Result<()> {
        opened.samples.extend(ended.context("a client panicked")?);
        Ok(())
    };
    let (start, mut next) = (Instant::now(), 0);
    while next < sources.len() {
        ticks.tick().await;
        let due = (start.elapsed().as_secs_f64() * rate as f64) as usize;
        for source in &sources[next..due.clamp(next, sources.len())] {
            if pending.len() < PENDING_MAX {
                pending.spawn_local(connection(*source, target, kind));
            }
        }
        next = due.clamp(next, sources.len());
        while let Some(ended) = pending.try_join_next() {
            collect(ended)?;
        }
    }
    let elapsed = start.elapsed();
    while let Some(ended) = pending.join_next().await {
        collect(ended)?;
    }
    opened.elapsed = elapsed;
    Ok(opened)
}

/// One connection, `None` if it fails or is not done in time.
async fn connection(source: SocketAddr, target: SocketAddr, kind: Kind) -> Option<Sample> {
    timeout(LIMIT, exchange(source, target, kind))
        .await
        .ok()?
        .ok()
}

async fn exchange(source: SocketAddr, target: SocketAddr, kind: Kind) -> io::Result<Sample> {
    let start = Instant::now();
    let socket = TcpSocket::new_v4()?;
    socket.bind(source)?;
    let mut stream = socket.connect(target).await?;
    let connected = start.elapsed();
    if kind == Kind::Request {
        stream.write_all(CLOSE).await?;
    }
    let mut answer = Vec::with_capacity(1024);
    if stream.read_buf(&mut answer).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let first_byte = start.elapsed();
    while stream.read_buf(&mut answer).await? > 0 {}
    Ok(Sample {
        connected,
        first_byte,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_tuple_is_handed_out_twice() {
        let mut tuples = Tuples::default();
        let taken = tuples.take(100_000).unwrap();
        let distinct: HashSet<_> = taken.iter().collect();
        assert_eq!(distinct.len(), taken.len());
    }

    #[test]
    fn unused_ports_run_out() {
        let mut tuples = Tuples::default();
        let all = more_clients().count() * usize::from(PORTS.end - PORTS.start);
        assert!(tuples.take(all).is_ok());
        assert!(tuples.take(1).is_err());
    }
}
