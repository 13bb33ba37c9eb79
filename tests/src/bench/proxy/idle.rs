//! A hundred thousand clients that say nothing: what each costs a proxy in memory, and what looking
//! after all of them costs in CPU.
//!
//! Client and backend are threads of this process, so it needs as many file descriptors as the
//! proxy; on a machine that does not allow them, a guest does.
use std::{
    env, fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, SockRef, Socket, Type};

use super::{
    System,
    backend::{KEEP, response, spawn},
    usage::Usage,
};
use crate::{
    interrupt::Interrupt,
    levee::{Levee, ProxySetup},
    proxy_lab::{BACKEND, INTERFACE, PROXY, ProxyLab, more_clients},
    relay::Relay,
};

/// What the user may choose.
#[derive(Clone, Debug)]
pub struct IdleOptions {
    /// Connections to each system.
    pub connections: u32,
    /// How long they are watched, seconds.
    pub seconds: u32,
    /// What is measured.
    pub systems: Vec<System>,
}

/// Most that the lab's ports and a guest's memory allow.
pub const CONNECTIONS_MAX: u32 = 150_000;

const PORT: u16 = 8000;
/// The proxy's ports towards one address and port of a backend do not suffice.
const BACKEND_PORTS: [u16; 4] = [8000, 8001, 8002, 8003];
/// File descriptors besides those of connections.
const DESCRIPTORS_KEPT: u64 = 4096;
/// How long one connect or answer may take.
const LIMIT: Duration = Duration::from_secs(30);
const SETTLE: Duration = Duration::from_secs(3);
const PROGRESS_INTERVAL: Duration = Duration::from_secs(30);

/// Measures and prints.
///
/// # Errors
/// Fails when the lab does, when file descriptors do not suffice, and on an interrupt.
pub fn run(options: &IdleOptions, interrupt: &Interrupt) -> Result<()> {
    let needed = 2 * u64::from(options.connections) + DESCRIPTORS_KEPT;
    raise_descriptors(needed)?;
    println!(
        "{:<14} {:>12} {:>12} {:>12} {:>14} {:>10} {:>10}",
        "system", "connections", "RSS before", "RSS after", "per connection", "CPU", "sweeps"
    );
    for &system in &options.systems {
        let row = measure(system, options, interrupt).with_context(|| system.name())?;
        println!(
            "{:<14} {:>12} {:>8} KiB {:>8} KiB {:>10.2} KiB {:>8.2} % {:>10}",
            system.name(),
            options.connections,
            row.before_kib,
            row.after_kib,
            row.after_kib.saturating_sub(row.before_kib) as f64 / f64::from(options.connections),
            row.cpu * 100.0,
            row.sweeps
                .map_or_else(|| "-".to_owned(), |share| format!("{:.3} %", share * 100.0)),
        );
    }
    Ok(())
}

struct Row {
    before_kib: u64,
    after_kib: u64,
    /// Of the process, of one core.
    cpu: f64,
    /// Of levee's sweeps over deadlines, of one core.
    sweeps: Option<f64>,
}

enum Running {
    Levee(Levee),
    Relay(Relay),
}

impl Running {
    fn start(system: System, lab: &ProxyLab, connections: u32) -> Result<Self> {
        let waited_for = SocketAddr::new(PROXY[0], PORT);
        let backends = BACKEND_PORTS.map(|port| SocketAddr::new(BACKEND[0], port));
        Ok(match system {
            System::Levee => {
                let setup = ProxySetup {
                    cpu: None,
                    descriptors: None,
                    interfaces: &[INTERFACE],
                    configuration: &levee(&backends, connections),
                };
                Self::Levee(Levee::configured(&lab.proxy, &setup)?)
            }
            System::Haproxy => Self::Relay(Relay::haproxy(
                &lab.proxy,
                None,
                &haproxy(&backends, connections),
                waited_for,
            )?),
            System::NginxStream => Self::Relay(Relay::nginx(
                &lab.proxy,
                None,
                &nginx(&backends, connections),
                waited_for,
            )?),
            System::Direct | System::HaproxySplice | System::Synproxy | System::Splice => {
                bail!("it is not measured: levee, haproxy and nginx-stream are");
            }
        })
    }

    fn id(&self) -> u32 {
        match self {
            Self::Levee(levee) => levee.id(),
            Self::Relay(relay) => relay.id(),
        }
    }

    /// Seconds that levee has spent on sweeps.
    fn swept(&self) -> Result<Option<f64>> {
        match self {
            Self::Levee(levee) => {
                let sum = levee.metrics()?.sum("levee_reaper_busy_seconds_total", &[]);
                Ok(Some(sum))
            }
            Self::Relay(_) => Ok(None),
        }
    }
}

fn measure(system: System, options: &IdleOptions, interrupt: &Interrupt) -> Result<Row> {
    let lab = ProxyLab::new()?;
    let _backends = BACKEND_PORTS
        .map(|port| Backend::start(&lab, SocketAddr::new(BACKEND[0], port)))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let running = Running::start(system, &lab, options.connections)?;
    let before_kib = resident_kib(running.id())?;
    let clients = clients(&lab, options.connections as usize, interrupt)?;
    interrupt.sleep(SETTLE)?;
    let after_kib = resident_kib(running.id())?;
    let usage = || Usage::read(Some(running.id()), &[]);
    let (start, used, swept) = (Instant::now(), usage()?, running.swept()?);
    interrupt.sleep(Duration::from_secs(options.seconds.into()))?;
    let (used, now) = (usage()?.since(&used), running.swept()?);
    let elapsed = start.elapsed().as_secs_f64();
    for (number, client) in clients.iter().enumerate() {
        is_open(client).with_context(|| format!("connection {number} has ended"))?;
    }
    Ok(Row {
        before_kib,
        after_kib,
        cpu: used.process.as_secs_f64() / elapsed,
        sweeps: swept.zip(now).map(|(before, now)| (now - before) / elapsed),
    })
}

/// Answers one request on each connection and keeps it; dropping it ends all.
struct Backend {
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Backend {
    fn start(lab: &ProxyLab, address: SocketAddr) -> Result<Self> {
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
fn clients(lab: &ProxyLab, connections: usize, interrupt: &Interrupt) -> Result<Vec<TcpStream>> {
    let interrupt = interrupt.clone();
    let thread = spawn(&lab.client, None, move || {
        let sources: Vec<_> = more_clients().collect();
        let mut open = Vec::with_capacity(connections);
        let mut progress = Instant::now();
        for number in 0..connections {
            interrupt.check()?;
            let stream = client(sources[number % sources.len()].into())
                .with_context(|| format!("connection {number} of {connections}"))?;
            open.push(stream);
            if progress.elapsed() > PROGRESS_INTERVAL {
                progress = Instant::now();
                eprintln!("{} of {connections} connections", open.len());
            }
        }
        Ok(open)
    })?;
    thread.join().map_err(|_| anyhow!("the client panicked"))?
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
fn is_open(stream: &TcpStream) -> Result<()> {
    stream.set_nonblocking(true)?;
    match stream.peek(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error.into()),
        Ok(bytes) => bail!("{bytes} bytes to read"),
    }
}

/// Takes as many file descriptors as are needed; the proxies that are started inherit them.
fn raise_descriptors(needed: u64) -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read RLIMIT_NOFILE")?;
    let program = env::current_exe().context("cannot tell where this program is")?;
    ensure!(
        hard >= needed,
        "{needed} file descriptors are needed, and RLIMIT_NOFILE allows {hard}: run it in a guest \
         (`cargo xtask guest --memory 6144 --seconds 3600 -- {} bench idle`)",
        program.display()
    );
    setrlimit(Resource::RLIMIT_NOFILE, needed, hard).context("cannot raise RLIMIT_NOFILE")
}

/// Resident memory, its program text included, KiB.
fn resident_kib(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("no VmRSS in {path}"))
}

fn levee(backends: &[SocketAddr], connections: u32) -> String {
    let backends: String = backends
        .iter()
        .map(|backend| format!("[[service.backend]]\naddress = \"{backend}\"\n"))
        .collect();
    format!(
        "[proxy]\nworkers = 1\nconnections_max = {}\n\
         [[service]]\naddress = \"{}\"\nmode = \"proxy\"\n{backends}",
        connections + 1000,
        SocketAddr::new(PROXY[0], PORT)
    )
}

fn haproxy(backends: &[SocketAddr], connections: u32) -> String {
    let servers: String = backends
        .iter()
        .map(|backend| format!("  server s{} {backend}\n", backend.port()))
        .collect();
    let connections = connections + 1000;
    format!(
        "global\n  nbthread 1\n  maxconn {connections}\n\
         defaults\n  mode tcp\n  maxconn {connections}\n\
         \x20 timeout connect 3s\n  timeout client 1h\n  timeout server 1h\n\
         listen idle\n  bind {} backlog 4096\n{servers}",
        SocketAddr::new(PROXY[0], PORT)
    )
}

fn nginx(backends: &[SocketAddr], connections: u32) -> String {
    let servers: String = backends
        .iter()
        .map(|backend| format!("    server {backend};\n"))
        .collect();
    format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
         events {{ worker_connections {}; }}\n\
         stream {{\n  access_log off;\n  proxy_connect_timeout 3s; proxy_timeout 1h;\n\
         \x20 upstream backends {{\n{servers}  }}\n\
         \x20 server {{ listen {} backlog=4096 reuseport; proxy_pass backends; }}\n}}\n",
        2 * connections + 1000,
        SocketAddr::new(PROXY[0], PORT)
    )
}
