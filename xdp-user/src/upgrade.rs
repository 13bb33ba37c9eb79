//! The next levee: the same program with the same arguments, as it is installed by then.

use std::{
    convert, env,
    ffi::OsString,
    future, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
    path::PathBuf,
    process::{self, ExitStatus},
};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::{
    sync::oneshot,
    task::{JoinHandle, spawn_blocking},
};

/// The flag by which a levee takes over from the one that runs.
pub const REPLACE: &str = "--replace";

/// How systemd is told something: a socket's path, or an abstract name behind an at sign.
const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// How this process was started.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

/// A levee that is starting to take over from this one.
#[derive(Debug)]
pub struct Successor {
    /// Its process id.
    pub pid: u32,
    ended: JoinHandle<io::Result<ExitStatus>>,
    /// Who wanted it.
    asked: Option<oneshot::Sender<Result<u32>>>,
}

impl Program {
    /// That of this process. To be called at the start: later its file may be another one.
    ///
    /// # Errors
    /// Fails when the system does not tell.
    pub fn of_this_process() -> Result<Self> {
        let path = env::current_exe().context("cannot tell where levee's program is")?;
        let mut arguments: Vec<_> = env::args_os().skip(1).collect();
        if !arguments.iter().any(|argument| argument == REPLACE) {
            arguments.push(REPLACE.into());
        }
        Ok(Self { path, arguments })
    }

    /// Starts the program that is there now, to take over. `asked` is told what comes of it, also
    /// when it cannot be started.
    pub fn start(&self, asked: oneshot::Sender<Result<u32>>) -> Option<Successor> {
        let spawned = process::Command::new(&self.path)
            .args(&self.arguments)
            .spawn()
            .with_context(|| format!("cannot start {}", self.path.display()));
        match spawned {
            Ok(mut child) => {
                log::info!("started process {} to take over", child.id());
                Some(Successor {
                    pid: child.id(),
                    ended: spawn_blocking(move || child.wait()),
                    asked: Some(asked),
                })
            }
            Err(error) => {
                tell(asked, Err(error));
                None
            }
        }
    }
}

impl Successor {
    /// Waits until it ends. If it does before it has taken over, whoever wanted it is told.
    pub async fn ended(&mut self) -> ExitStatus {
        let status = (&mut self.ended).await;
        let status = status.map_err(io::Error::from).and_then(convert::identity);
        let status = status.unwrap_or_else(|error| {
            log::error!("cannot wait for process {}: {error}", self.pid);
            ExitStatus::default()
        });
        if let Some(asked) = self.asked.take() {
            let error = anyhow!(
                "the program that was to take over ended ({status}); levee's log has its reason. \
                 The levee before it goes on"
            );
            log::error!("{error:#}");
            tell(asked, Err(error));
        }
        status
    }

    /// It has taken over. Tells whoever wanted it, and systemd, for which it is the service from now
    /// on.
    pub fn has_taken_over(&mut self) {
        if let Err(error) = notify(&format!("MAINPID={}", self.pid)) {
            log::warn!("cannot tell systemd which process levee is now: {error:#}");
        }
        if let Some(asked) = self.asked.take() {
            tell(asked, Ok(self.pid));
        }
    }

    /// Whether it still runs, as it should when this process ends.
    ///
    /// # Errors
    /// Fails when it has ended otherwise than in good order.
    pub async fn check(mut self) -> Result<()> {
        if !self.ended.is_finished() {
            return Ok(());
        }
        match self.ended().await {
            status if status.success() => Ok(()),
            status => bail!(
                "process {}, which had taken over, ended: {status}",
                self.pid
            ),
        }
    }
}

/// Waits until the levee that is to take over ends; for ever if there is none.
pub async fn ended(successor: &mut Option<Successor>) {
    match successor {
        Some(successor) => drop(successor.ended().await),
        None => future::pending().await,
    }
}

fn tell(asked: oneshot::Sender<Result<u32>>, result: Result<u32>) {
    // Whoever asked may be gone.
    let _ = asked.send(result);
}

/// Tells systemd something (sd_notify(3)), if it is there.
fn notify(state: &str) -> Result<()> {
    let Some(name) = env::var_os(NOTIFY_SOCKET) else {
        return Ok(());
    };
    let address = match name.as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}
