//! The backend of the benchmark: answers requests, and sends without end.
//!
//! It does as little as a server can, so that its CPU has time left for the proxy's load.
use std::{
    fs::File,
    io::Write as _,
    net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{sys::sendfile::sendfile, unistd::gettid};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Builder,
    task::JoinSet,
    time::interval,
};

use crate::{
    netns::Netns,
    proxy_lab::{BACKEND, ProxyLab},
    scheduling::pin_thread,
};

/// Where it answers requests.
pub(in crate::bench) const REQUESTS: u16 = 8000;
/// Where it sends without end.
pub(in crate::bench) const STREAMS: u16 = 8001;

/// Where it says [`BANNER`] and closes.
pub(in crate::bench) const BANNERS: u16 = 8003;
/// What a server says that speaks first.
pub(in crate::bench) const BANNER: &[u8] = b"220 levee.lab ready\r\n";
/// Where an iperf3 server may be.
pub(in crate::bench) const IPERF: u16 = 8002;

/// What a request on a connection of its own says.
pub(in crate::bench) const CLOSE: &[u8] =
    b"GET / HTTP/1.1\r\nHost: levee.lab\r\nConnection: close\r\n\r\n";
/// What a request on a connection that stays open says.
pub(in crate::bench) const KEEP: &[u8] =
    b"GET / HTTP/1.1\r\nHost: levee.lab\r\nAccept: */*\r\n\r\n";

const BODY_BYTES: usize = 128;
const STOP_INTERVAL: Duration = Duration::from_millis(50);
const CONNECTIONS_MAX: usize = 16_384;
const STREAM_THREADS_MAX: usize = 64;
const STREAM_FILE_BYTES: usize = 4 << 20;
/// A stream ends by itself after this.
const STREAM_MAX: Duration = Duration::from_secs(60);

/// The answer to every request.
pub(in crate::bench) fn response() -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY_BYTES}\r\n\r\n");
    [head.as_bytes(), &[b'x'; BODY_BYTES]].concat()
}

/// A running backend; dropping it stops it.
pub(in crate::bench) struct Backend {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Backend {
    pub(in crate::bench) fn start(lab: &ProxyLab, cpu: Option<usize>) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let [requests, streams, banners] = [
            listen(lab, REQUESTS)?,
            listen(lab, STREAMS)?,
            listen(lab, BANNERS)?,
        ];
        let answering = spawn(&lab.backend, cpu, {
            let stop = Arc::clone(&stop);
            move || {
                let runtime = Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(answer(requests, banners, &stop))
            }
        })?;
        let sending = spawn(&lab.backend, cpu, {
            let stop = Arc::clone(&stop);
            move || send_streams(&streams, &stop)
        })?;
        Ok(Self {
            stop,
            threads: vec![answering, sending],
        })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => eprintln!("the backend failed: {error:#}"),
                Err(_) => eprintln!("the backend panicked"),
            }
        }
    }
}

/// Listens at the backend, without ever waiting for a client.
pub(super) fn listen(lab: &ProxyLab, port: u16) -> Result<StdListener> {
    let address = SocketAddr::new(BACKEND[0], port);
    lab.backend.run(|| {
        let listener =
            StdListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    })
}

/// A thread inside a namespace, on one CPU if one is given.
pub(in crate::bench) fn spawn<T: Send + 'static>(
    netns: &Netns,
    cpu: Option<usize>,
    f: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<JoinHandle<Result<T>>> {
    let netns = netns.clone();
    let thread = thread::Builder::new().name("levee-lab-load".into());
    let run = move || {
        netns.enter()?;
        if let Some(cpu) = cpu {
            pin_thread(gettid(), cpu)?;
        }
        f()
    };
    thread.spawn(run).context("cannot start a thread")
}

async fn answer(requests: StdListener, banners: StdListener, stop: &AtomicBool) -> Result<()> {
    let (requests, banners) = (
        TcpListener::from_std(requests)?,
        TcpListener::from_std(banners)?,
    );
    let response: Arc<[u8]> = response().into();
    let mut connections = JoinSet::new();
    let mut ticks = interval(STOP_INTERVAL);
    loop {
        tokio::select! {
            accepted = requests.accept() => {
                let (stream, _) = accepted.context("the backend cannot accept")?;
                if connections.len() >= CONNECTIONS_MAX {
                    bail!("more than {CONNECTIONS_MAX} connections at the backend");
                }
                connections.spawn(serve(stream, Arc::clone(&response)));
            }
            accepted = banners.accept() => {
                let (mut stream, _) = accepted.context("the backend cannot accept")?;
                // As long as it is, it fits into the socket's buffer. A client that is gone needs none.
                stream.write_all(BANNER).await.ok();
            }
            Some(_) = connections.join_next() => {}
            _ = ticks.tick() => if stop.load(Relaxed) {
                return Ok(());
            },
        }
    }
}

/// Requests come whole or in a few pieces and never two at once: that is all this has to tell.
async fn serve(mut stream: TcpStream, response: Arc<[u8]>) -> std::io::Result<()> {
    let mut request = Vec::with_capacity(CLOSE.len().max(KEEP.len()));
    loop {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
        if request.ends_with(b"\r\n\r\n") {
            let close = request == CLOSE;
            stream.write_all(&response).await?;
            if close {
                return Ok(());
            }
            request.clear();
        } else if request.len() > CLOSE.len().max(KEEP.len()) {
            return Ok(());
        }
    }
}

fn send_streams(listener: &StdListener, stop: &Arc<AtomicBool>) -> Result<()> {
    let mut file = tempfile::tempfile().context("cannot make a file to send")?;
    file.write_all(&vec![0x5a; STREAM_FILE_BYTES])?;
    let file = Arc::new(file);
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    while !stop.load(Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                threads.retain(|thread| !thread.is_finished());
                if threads.len() >= STREAM_THREADS_MAX {
                    bail!("more than {STREAM_THREADS_MAX} streams at the backend");
                }
                stream.set_nonblocking(false)?;
                let (file, stop) = (Arc::clone(&file), Arc::clone(stop));
                // Inherits namespace and CPU.
                threads.push(thread::spawn(move || send_stream(&stream, &file, &stop)));
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                thread::sleep(STOP_INTERVAL / 10);
            }
            Err(error) => return Err(error).context("the backend cannot accept"),
        }
    }
    for thread in threads {
        if thread.join().is_err() {
            bail!("a stream panicked");
        }
    }
    Ok(())
}

/// Sends until the receiver goes away, which ends it with an error that is none.
fn send_stream(stream: &StdStream, file: &File, stop: &AtomicBool) {
    let deadline = Instant::now() + STREAM_MAX;
    stream.set_write_timeout(Some(STOP_INTERVAL * 20)).ok();
    while !stop.load(Relaxed) && Instant::now() < deadline {
        let mut offset = 0;
        if sendfile(stream, file, Some(&mut offset), STREAM_FILE_BYTES).is_err() {
            return;
        }
    }
}
