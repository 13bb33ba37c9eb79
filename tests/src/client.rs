//! The legitimate client: new connections at a steady rate, each fetching one page.
use std::{
    mem,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use tokio::{
    runtime::Builder,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{http, netns::Netns};

/// What the client does.
#[derive(Clone, Copy, Debug)]
pub struct LoadSpec {
    /// The web server.
    pub target: SocketAddr,
    /// New connections per second.
    pub rate: u32,
    /// Connections in all.
    pub count: u32,
    /// How long one may take, from the SYN to the last byte of the page, to count as a success.
    pub timeout: Duration,
}

/// How one connection went.
#[derive(Clone, Debug)]
pub struct Sample {
    /// From the first SYN to the last byte, or why that did not happen.
    pub outcome: Result<Duration, String>,
}

/// A running client; dropping it stops it.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    samples: Mutex<Vec<Sample>>,
}

impl Load {
    /// Starts the client in its namespace.
    ///
    /// # Errors
    /// Fails when no thread can be started.
    pub fn start(netns: &Netns, spec: LoadSpec) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread = thread::Builder::new()
            .name("levee-lab-client".into())
            .spawn({
                let (netns, shared) = (netns.clone(), Arc::clone(&shared));
                move || {
                    netns.enter()?;
                    let runtime = Builder::new_current_thread().enable_all().build()?;
                    runtime.block_on(drive(spec, &shared));
                    Ok(())
                }
            });
        Ok(Self {
            shared,
            thread: Some(thread.context("cannot start the client's thread")?),
        })
    }

    /// Takes the connections that have ended since the last call.
    #[must_use]
    pub fn drain(&self) -> Vec<Sample> {
        mem::take(
            &mut self
                .shared
                .samples
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Opens no more connections, waits for those under way (within their timeout) and returns all
    /// that have ended since the last [`drain`](Self::drain).
    ///
    /// # Errors
    /// Fails when the client could not run in its namespace.
    pub fn stop(self) -> Result<Vec<Sample>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.join()
    }

    /// Waits until all connections have been made and have ended.
    ///
    /// # Errors
    /// As [`stop`](Self::stop).
    pub fn join(mut self) -> Result<Vec<Sample>> {
        let thread = self.thread.take().context("joined twice")?;
        thread
            .join()
            .map_err(|_| anyhow!("the client's thread panicked"))??;
        Ok(self.drain())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Whoever wants the client's error uses `stop` or `join`.
            thread.join().ok();
        }
    }
}

async fn drive(spec: LoadSpec, shared: &Arc<Shared>) {
    let mut ticks = interval(Duration::from_secs(1) / spec.rate.max(1));
    // A client that was held up does not make up for it with a burst.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut requests = Vec::new();
    for _ in 0..spec.count {
        ticks.tick().await;
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        let shared = Arc::clone(shared);
        requests.push(tokio::spawn(async move {
            let sample = request(spec.target, spec.timeout).await;
            let mut samples = shared
                .samples
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            samples.push(sample);
        }));
        requests.retain(|request| !request.is_finished());
    }
    for request in requests {
        // A request neither panics nor is cancelled; its result is in the samples.
        request.await.ok();
    }
}

async fn request(target: SocketAddr, limit: Duration) -> Sample {
    let start = Instant::now();
    let outcome = match timeout(limit, http::get(target, "/")).await {
        Ok(Ok((200, _))) => Ok(start.elapsed()),
        Ok(Ok((status, _))) => Err(format!("HTTP status {status}")),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(_) => Err(format!("not done after {limit:?}")),
    };
    Sample { outcome }
}
