//! The load: requests on connections of their own, requests one after another, streams, and
//! requests at a steady pace for their latency. Every load is bounded in time and connections.
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream as StdStream},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sys::socket::{MsgFlags, recv};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime::Builder,
    task::JoinSet,
    time::timeout,
};

use super::backend::{CLOSE, KEEP, response, spawn};
use crate::netns::Netns;

/// How long one request or connect may take.
const LIMIT: Duration = Duration::from_secs(5);
/// After a failure, so that a dead proxy is not hammered.
const FAILURE_PAUSE: Duration = Duration::from_millis(5);
const STREAM_BUFFER: usize = 1 << 20;
/// Idle connections are opened by so many at a time.
const IDLE_THREADS: usize = 16;

/// Where a load runs and whom it is for.
#[derive(Clone, Debug)]
pub(in crate::bench) struct From {
    pub(in crate::bench) netns: Netns,
    pub(in crate::bench) cpu: Option<usize>,
    pub(in crate::bench) target: SocketAddr,
}

/// What a load achieved.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::bench) struct Achieved {
    /// Requests answered in full, or bytes received.
    pub(in crate::bench) done: u64,
    /// Requests or streams that failed.
    pub(in crate::bench) failed: u64,
    /// How long it took.
    pub(in crate::bench) elapsed: Duration,
}

/// A connection for each request; the server closes it.
pub(in crate::bench) fn connect_per_request(
    from: &From,
    clients: usize,
    length: Duration,
) -> Result<Achieved> {
    requests(from, clients, length, |target, deadline| async move {
        let mut counts = (0, 0);
        let mut answer = Vec::with_capacity(4096);
        let expected = response().len();
        while Instant::now() < deadline {
            answer.clear();
            let request = async {
                let mut stream = TcpStream::connect(target).await?;
                stream.write_all(CLOSE).await?;
                while stream.read_buf(&mut answer).await? > 0 {}
                std::io::Result::Ok(answer.len() == expected)
            };
            count(timeout(LIMIT, request).await, &mut counts).await;
        }
        counts
    })
}

/// Request after request on connections that stay open.
pub(in crate::bench) fn keep_alive(
    from: &From,
    clients: usize,
    length: Duration,
) -> Result<Achieved> {
    requests(from, clients, length, |target, deadline| async move {
        let mut counts = (0, 0);
        let mut answer = response();
        let mut stream = None;
        while Instant::now() < deadline {
            let request = async {
                let mut open = match stream.take() {
                    Some(open) => open,
                    None => TcpStream::connect(target).await?,
                };
                open.write_all(KEEP).await?;
                open.read_exact(&mut answer).await?;
                stream = Some(open);
                std::io::Result::Ok(true)
            };
            count(timeout(LIMIT, request).await, &mut counts).await;
        }
        counts
    })
}

type Outcome = Result<std::io::Result<bool>, tokio::time::error::Elapsed>;

async fn count(outcome: Outcome, (done, failed): &mut (u64, u64)) {
    if matches!(outcome, Ok(Ok(true))) {
        *done += 1;
    } else {
        *failed += 1;
        tokio::time::sleep(FAILURE_PAUSE).await;
    }
}

fn requests<F>(
    from: &From,
    clients: usize,
    length: Duration,
    client: impl Fn(SocketAddr, Instant) -> F + Send + 'static,
) -> Result<Achieved>
where
    F: Future<Output = (u64, u64)> + 'static,
{
    let target = from.target;
    let thread = spawn(&from.netns, from.cpu, move || {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let start = Instant::now();
            let mut tasks = JoinSet::new();
            for _ in 0..clients {
                tasks.spawn_local(client(target, start + length));
            }
            let mut achieved = Achieved::default();
            while let Some(counts) = tasks.join_next().await {
                let (done, failed) = counts.context("a client panicked")?;
                achieved.done += done;
                achieved.failed += failed;
            }
            achieved.elapsed = start.elapsed();
            Ok(achieved)
        })
    })?;
    thread.join().map_err(|_| anyhow!("the load panicked"))?
}

/// Receives on so many connections at once; what comes is discarded in the kernel.
pub(in crate::bench) fn streams(
    from: &From,
    connections: usize,
    length: Duration,
) -> Result<Achieved> {
    let start = Instant::now();
    let threads: Vec<_> = (0..connections)
        .map(|_| {
            let target = from.target;
            spawn(&from.netns, from.cpu, move || {
                let stream = StdStream::connect_timeout(&target, LIMIT)?;
                stream.set_read_timeout(Some(LIMIT))?;
                discard(&stream, start + length)
            })
        })
        .collect::<Result<_>>()?;
    let mut achieved = Achieved::default();
    for thread in threads {
        match thread.join().map_err(|_| anyhow!("a stream panicked"))? {
            Ok(bytes) => achieved.done += bytes,
            Err(_) => achieved.failed += 1,
        }
    }
    achieved.elapsed = start.elapsed();
    Ok(achieved)
}

/// tcp(7): with MSG_TRUNC the bytes are not copied. What a receiver does with them is not measured.
fn discard(stream: &StdStream, deadline: Instant) -> Result<u64> {
    let mut buffer = vec![0; STREAM_BUFFER];
    let mut bytes = 0;
    while Instant::now() < deadline {
        match recv(stream.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC)? {
            0 => break,
            received => bytes += received as u64,
        }
    }
    Ok(bytes)
}

/// Latencies of requests on one connection at a steady pace. Where an answer is late, the requests
/// that had to wait for it count their waiting; those that could not be sent in twice the time count
/// it as far as it went.
pub(in crate::bench) fn latencies(
    from: &From,
    rate: u32,
    length: Duration,
) -> Result<Vec<Duration>> {
    let target = from.target;
    let thread = spawn(&from.netns, from.cpu, move || {
        let mut stream = StdStream::connect_timeout(&target, LIMIT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut answer = response();
        let interval = Duration::from_secs(1) / rate;
        let start = Instant::now();
        let mut samples = Vec::new();
        let mut planned = start;
        while planned < start + length {
            let now = Instant::now();
            // Waking up late is the lab's doing; a plan that has passed is the proxy's.
            let begin = if planned > now {
                thread::sleep(planned - now);
                Instant::now()
            } else {
                planned
            };
            stream.write_all(KEEP)?;
            stream.read_exact(&mut answer)?;
            samples.push(begin.elapsed());
            planned += interval;
            if start.elapsed() > 2 * length {
                break;
            }
        }
        let end = Instant::now();
        while planned < start + length {
            samples.push(end - planned);
            planned += interval;
        }
        Ok(samples)
    })?;
    thread.join().map_err(|_| anyhow!("the load panicked"))?
}

/// Opens connections and has one request answered on each.
pub(in crate::bench) fn idle(from: &From, connections: usize) -> Result<Vec<StdStream>> {
    let threads: Vec<_> = (0..IDLE_THREADS)
        .map(|number| {
            let target = from.target;
            let share = (connections + number) / IDLE_THREADS;
            spawn(&from.netns, from.cpu, move || {
                (0..share).map(|_| open(target)).collect::<Result<Vec<_>>>()
            })
        })
        .collect::<Result<_>>()?;
    let mut all = Vec::with_capacity(connections);
    for thread in threads {
        let opened = thread.join().map_err(|_| anyhow!("the load panicked"))?;
        all.extend(opened.with_context(|| format!("{connections} idle connections"))?);
    }
    Ok(all)
}

fn open(target: SocketAddr) -> Result<StdStream> {
    let expected = response();
    let mut answer = vec![0; expected.len()];
    let mut stream = StdStream::connect_timeout(&target, LIMIT).context("connect")?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(KEEP)?;
    stream.read_exact(&mut answer).context("answer")?;
    ensure!(answer == expected, "another answer");
    Ok(stream)
}

/// The value below which a share of the samples is, 0 to 1; they are sorted by it. Zero for none.
pub(in crate::bench) fn quantile(samples: &mut [Duration], share: f64) -> Duration {
    samples.sort_unstable();
    let last = samples.len().saturating_sub(1);
    let at = (last as f64 * share).round() as usize;
    samples.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles() {
        let mut samples: Vec<_> = (1..=101).rev().map(Duration::from_micros).collect();
        assert_eq!(quantile(&mut samples, 0.5), Duration::from_micros(51));
        assert_eq!(quantile(&mut samples, 0.99), Duration::from_micros(100));
        assert_eq!(quantile(&mut [], 0.5), Duration::ZERO);
    }
}
