//! The side of the running levee.

use std::{
    convert::Infallible,
    fs, io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _},
        net::UnixStream as StdUnixStream,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Error, Result, bail, ensure};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    task::JoinSet,
    time,
};

use super::{Connections, LISTED_MAX, REQUEST_LEN_MAX, Reloaded, Request, Response, Status};
use crate::{
    engine::reason::CloseReason,
    proxy::info::{Filter, Listing},
    shared::Shared,
};

/// Clients served at once; more wait. Each asks for one thing.
pub(crate) const CLIENTS_MAX: usize = 64;

/// How long a client may take to ask, which `levee` does at once. Short, so that others get their
/// turn however many connect and stay silent.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a client may take to read the answer.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after a failed accept, as when file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What clients want the controller to do.
#[derive(Debug)]
pub enum Command {
    /// Read the configuration again, and say what came of it.
    Reload(oneshot::Sender<Result<Reloaded>>),
    /// Start the program once more to take over, and tell its process id when it has.
    Upgrade(oneshot::Sender<Result<u32>>),
    /// Leave the data path to whoever asks, and say so.
    Leave(oneshot::Sender<Result<()>>),
}

/// The bound socket. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    door: Door,
}

/// What clients come in through.
#[derive(Clone, Debug)]
pub struct Door {
    file: Arc<SocketFile>,
    places: Arc<Semaphore>,
}

impl Door {
    /// Removes the socket's file, so that nobody finds it any more and another levee may make its
    /// own. Whoever came in is still served.
    pub fn close(&self) {
        self.file.remove();
    }

    /// Whether the file has been removed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.file.path().is_none()
    }

    /// Waits until those who came in have their answers, but not for long. To be called once the
    /// door is closed.
    pub async fn empty(&self) {
        // One place is taken by whoever may come in next.
        let all = self.places.acquire_many(CLIENTS_MAX as u32 - 1);
        // Whoever does not read its answer has had its time.
        let _ = time::timeout(READ_TIMEOUT, all).await;
    }
}

/// Its path, until it is removed.
#[derive(Debug)]
struct SocketFile(Mutex<Option<PathBuf>>);

impl SocketFile {
    fn path(&self) -> MutexGuard<'_, Option<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self) {
        let mut path = self.path();
        if let Some(path) = path.take()
            && let Err(error) = fs::remove_file(&path)
        {
            log::warn!("cannot remove {}: {error}", path.display());
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

impl ControlSocket {
    /// Binds the socket, making its directory. A socket left behind by a levee that died is
    /// replaced. To be called in a tokio runtime.
    ///
    /// # Errors
    /// Fails when a running levee has it, and when the path is something else than a socket.
    pub fn bind(path: &Path) -> Result<Self> {
        let name = path.display();
        if let Some(parent) = path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(parent)
                .with_context(|| format!("cannot make the directory {}", parent.display()))?;
        }
        remove_stale(path)?;
        let listener = UnixListener::bind(path)
            .with_context(|| format!("cannot make the control socket {name}"))?;
        let file = SocketFile(Mutex::new(Some(path.into())));
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))
            .with_context(|| format!("cannot restrict the control socket {name}"))?;
        let door = Door {
            file: Arc::new(file),
            places: Arc::new(Semaphore::new(CLIENTS_MAX)),
        };
        Ok(Self { listener, door })
    }

    /// What its clients come in through.
    #[must_use]
    pub fn door(&self) -> Door {
        self.door.clone()
    }
}

fn remove_stale(path: &Path) -> Result<()> {
    let name = path.display();
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot examine {name}")),
    };
    ensure!(
        kind.is_socket(),
        "the control socket {name} cannot be made: there is a file of that name that is no socket"
    );
    match StdUnixStream::connect(path) {
        Ok(_) => bail!(
            "another levee is running with the control socket {name}. Stop it, or choose another \
             with control_socket or --control-socket"
        ),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).with_context(|| format!("cannot remove the stale {name}"))
        }
        Err(error) => Err(error).with_context(|| format!("cannot tell whether {name} is in use")),
    }
}

/// Serves until it is dropped; then the socket's file is removed.
///
/// # Errors
/// None while it runs: a client's troubles are logged.
pub async fn serve(
    socket: ControlSocket,
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
) -> Result<Infallible> {
    let places = Arc::clone(&socket.door.places);
    // Dropping the set ends its clients.
    let mut clients = JoinSet::new();
    loop {
        let place = Arc::clone(&places).acquire_owned().await?;
        while clients.try_join_next().is_some() {}
        let stream = match socket.listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::warn!("control socket: cannot accept a client: {error}");
                time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (shared, commands) = (Arc::clone(&shared), commands.clone());
        clients.spawn(async move {
            if let Err(error) = serve_client(stream, &shared, &commands).await {
                log::debug!("control socket: {error:#}");
            }
            drop(place);
        });
    }
}

async fn serve_client(
    stream: UnixStream,
    shared: &Shared,
    commands: &mpsc::Sender<Command>,
) -> Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = Vec::new();
    let mut reader = BufReader::new(reader.take(REQUEST_LEN_MAX));
    time::timeout(ASK_TIMEOUT, reader.read_until(b'\n', &mut line)).await??;
    let response = match serde_json::from_slice(&line) {
        Ok(request) => answer(request, shared, commands).await,
        Err(error) => Err(error).context("cannot understand the request"),
    };
    let response = response.unwrap_or_else(|error| Response::Error(format!("{error:#}")));
    let mut line = serde_json::to_vec(&response)?;
    line.push(b'\n');
    time::timeout(READ_TIMEOUT, writer.write_all(&line)).await??;
    Ok(())
}

async fn answer(
    request: Request,
    shared: &Shared,
    commands: &mpsc::Sender<Command>,
) -> Result<Response> {
    match request {
        Request::Status => {
            let snapshot = shared
                .snapshot()?
                .context("levee is starting or stopping")?;
            Ok(Response::Status(Box::new(Status::new(&snapshot))))
        }
        Request::Reload => {
            let reloaded = command(commands, Command::Reload).await?;
            Ok(Response::Reloaded(reloaded))
        }
        Request::Upgrade => {
            let successor = command(commands, Command::Upgrade).await?;
            Ok(Response::Upgraded(successor))
        }
        Request::Leave => {
            command(commands, Command::Leave).await?;
            Ok(Response::Left)
        }
        Request::Connections { selection, limit } => {
            let filter = selection.filter().map_err(Error::msg)?;
            let listing = list(shared, &filter, limit.min(LISTED_MAX)).await?;
            Ok(Response::Connections(Connections {
                rows: listing.rows,
                matched: listing.matched,
            }))
        }
        Request::Kill { selection, all } => {
            let filter = selection.filter().map_err(Error::msg)?;
            ensure!(
                filter.is_empty() == all,
                "found {} condition, allowed: an id or conditions, or --all alone",
                if all { "--all with a" } else { "no" }
            );
            let killed = kill(shared, &filter).await?;
            log::info!("{killed} connection(s) ended on request");
            Ok(Response::Killed(killed))
        }
    }
}

/// Has the controller do something, and waits until it has.
async fn command<T>(
    commands: &mpsc::Sender<Command>,
    command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command,
) -> Result<T> {
    let (sender, receiver) = oneshot::channel();
    let stopping = "levee is stopping";
    commands.send(command(sender)).await.context(stopping)?;
    receiver.await.context(stopping)?
}

/// Connections of the proxy and spliced ones.
async fn list(shared: &Shared, filter: &Filter, max: usize) -> Result<Listing> {
    let mut listing = Listing::default();
    has_connections(shared)?;
    if let Some(proxy) = shared.proxy() {
        listing = proxy.list(filter, max).await?;
    }
    if let Some(splicer) = shared.splice() {
        let left = max - listing.rows.len();
        let more = splicer.thread.list(filter, left).await?;
        listing.rows.extend(more.rows);
        listing.matched += more.matched;
    }
    Ok(listing)
}

async fn kill(shared: &Shared, filter: &Filter) -> Result<u64> {
    let mut killed = 0;
    has_connections(shared)?;
    if let Some(proxy) = shared.proxy() {
        killed += proxy.kill(filter).await?;
    }
    if let Some(splicer) = shared.splice() {
        killed += splicer.thread.end(filter, CloseReason::Killed).await?;
    }
    Ok(killed)
}

fn has_connections(shared: &Shared) -> Result<()> {
    ensure!(
        shared.proxy().is_some() || shared.splice().is_some(),
        "no service of this levee is in proxy or splice mode: it has no connections of its own"
    );
    Ok(())
}
