//! Backends that answer once, and clients that ask once; both then only hold their connections.
use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use socket2::{Domain, SockRef, Socket, Type};

use super::{CONNECTIONS_MAX, PORT};
use crate::{
    bench::proxy::backend::{KEEP, response, spawn},
    interrupt::Interrupt,
    proxy_lab::{PROXY, ProxyLab, more_clients},
};

/// How long one connect or answer may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Connections are opened by so many at a time.
const THREADS: usize = 16;
const PROGRESS_INTERVAL: Duration = Duration::from_secs(30);

/// Answers one request on each connection and keeps it; dropping it ends all.
pub(super) struct Backend {
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Backend {
    pub(super) fn start(lab: &ProxyLab, address: SocketAddr) -> Result<Self> {
        let listener = lab.backend.run(|| {
            TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))
        })?;
        let listener = Arc::new(listener);
        let thread = spawn(&lab.backend, None, {
            let listener = Arc::clone(&listener);
            move || {
                let (mut open, mut request, answer) = (Vec::new(), KEEP.to_vec(), response());
                // Ends when the listener is shut down.
                while let Ok((mut stream, _)) = listener.accept() {
                    ensure!(
                        open.len() < CONNECTIONS_MAX as usize,
                        "too many connections"
                    );
                    stream.set_read_timeout(Some(LIMIT))?;
                    // A proxy may look whether anybody is there, and go away again.
                    if stream.read_exact(&mut request).is_ok() {
                        stream.write_all(&answer)?;
                        open.push(stream);
                    }
                }
                Ok(())
            }
        })?;
        Ok(Self {
            listener,
            thread: Some(thread),
        })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Err(error) = SockRef::from(&*self.listener).shutdown(Shutdown::Both) {
            eprintln!("cannot end the backend: {error}");
            return;
        }
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => eprintln!("the backend failed: {error:#}"),
            Some(Err(_)) => eprintln!("the backend panicked"),
            Some(Ok(Ok(()))) | None => {}
        }
    }
}

/// Opens connections, in turn from all the client's addresses, and has a request answered on each.
pub(super) fn clients(
    lab: &ProxyLab,
    connections: usize,
    interrupt: &Interrupt,
) -> Result<Vec<TcpStream>> {
    let threads: Vec<_> = (0..THREADS)
        .map(|number| {
            let interrupt = interrupt.clone();
            let share = (connections + number) / THREADS;
            spawn(&lab.client, None, move || open(share, number, &interrupt))
        })
        .collect::<Result<_>>()?;
    let mut all = Vec::with_capacity(connections);
    for thread in threads {
        let opened = thread.join().map_err(|_| anyhow!("a client panicked"))?;
        all.extend(opened.with_context(|| format!("{connections} connections"))?);
    }
    Ok(all)
}

/// Opens the share of one thread; the first one tells how far it is.
fn open(share: usize, thread: usize, interrupt: &Interrupt) -> Result<Vec<TcpStream>> {
    let sources: Vec<_> = more_clients().collect();
    let mut open = Vec::with_capacity(share);
    let mut progress = Instant::now();
    for number in 0..share {
        interrupt.check()?;
        let source = sources[(thread + number) % sources.len()];
        let stream = client(source.into()).with_context(|| format!("connection {number}"))?;
        open.push(stream);
        if thread == 0 && progress.elapsed() > PROGRESS_INTERVAL {
            progress = Instant::now();
            eprintln!("one thread of {THREADS}: {number} of {share} connections");
        }
    }
    Ok(open)
}

fn client(source: IpAddr) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect_timeout(&SocketAddr::new(PROXY[0], PORT).into(), LIMIT)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(KEEP)?;
    let expected = response();
    let mut answer = expected.clone();
    stream.read_exact(&mut answer)?;
    ensure!(answer == expected, "another answer");
    Ok(stream)
}

/// Neither closed nor reset, and nothing came.
pub(super) fn is_open(stream: &TcpStream) -> Result<()> {
    stream.set_nonblocking(true)?;
    match stream.peek(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error.into()),
        Ok(bytes) => bail!("{bytes} bytes to read"),
    }
}
