//! Other TCP proxies, as they are compared with levee and put in front of or behind it.
use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::{netns::Netns, process::Process, scratch};

const START_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// A running HAProxy or nginx; dropping it ends it and removes its files.
#[derive(Debug)]
pub struct Relay {
    process: Process,
    directory: TempDir,
}

impl Relay {
    /// Runs HAProxy with this configuration, on one CPU if one is given, and waits until it listens
    /// on `address`.
    ///
    /// # Errors
    /// Quotes its log when it does not start.
    pub fn haproxy(
        netns: &Netns,
        cpu: Option<usize>,
        configuration: &str,
        address: SocketAddr,
    ) -> Result<Self> {
        let directory = scratch::directory()?;
        let file = write(directory.path(), "haproxy.cfg", configuration)?;
        let mut command = pinned(netns, cpu, "haproxy");
        command.args(["-db", "-f", &file]);
        Self::start(netns, "haproxy", directory, command, address)
    }

    /// Runs nginx with this configuration, to which names of files, one process and the foreground
    /// are added; otherwise as [`haproxy`](Self::haproxy).
    ///
    /// # Errors
    /// Quotes its log when it does not start.
    pub fn nginx(
        netns: &Netns,
        cpu: Option<usize>,
        configuration: &str,
        address: SocketAddr,
    ) -> Result<Self> {
        let directory = scratch::directory()?;
        let dir = directory.path().display().to_string();
        let whole = format!(
            "daemon off; master_process off; user root; pid {dir}/nginx.pid;\n\
             error_log stderr warn;\n{configuration}"
        );
        let file = write(directory.path(), "nginx.conf", &whole)?;
        let mut command = pinned(netns, cpu, "nginx");
        command.args(["-p", &dir, "-c", &file]);
        Self::start(netns, "nginx", directory, command, address)
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it has written to stdout and stderr.
    ///
    /// # Errors
    /// Fails when the log cannot be read.
    pub fn log(&self) -> Result<String> {
        fs::read_to_string(log_path(self.directory.path())).context("cannot read the log")
    }

    fn start(
        netns: &Netns,
        name: &str,
        directory: TempDir,
        mut command: Command,
        address: SocketAddr,
    ) -> Result<Self> {
        let log = fs::File::create(log_path(directory.path())).context("cannot make a log")?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut relay = Self {
            process: Process::spawn(name, command)?,
            directory,
        };
        let deadline = Instant::now() + START_TIMEOUT;
        while !listens(netns, address)? {
            let ended = relay.process.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                bail!(
                    "{name} does not listen on {address}; status {ended:?}; its log:\n{}",
                    relay.log()?
                );
            }
            thread::sleep(RETRY_INTERVAL);
        }
        Ok(relay)
    }
}

/// A command inside a namespace, on one CPU if one is given.
#[must_use]
pub fn pinned(netns: &Netns, cpu: Option<usize>, program: &str) -> Command {
    match cpu {
        None => netns.command(program),
        Some(cpu) => {
            let mut command = netns.command("taskset");
            command.args(["-c", &cpu.to_string(), program]);
            command
        }
    }
}

/// Whether somebody listens there; asking opens no connection.
///
/// # Errors
/// Fails when `ss` does.
pub fn listens(netns: &Netns, address: SocketAddr) -> Result<bool> {
    let sockets = netns.tool(&format!("ss -Hltn src {address}"))?;
    Ok(!sockets.trim().is_empty())
}

fn write(directory: &Path, name: &str, text: &str) -> Result<String> {
    let file = directory.join(name);
    fs::write(&file, text).with_context(|| format!("cannot write {name}"))?;
    Ok(file.display().to_string())
}

fn log_path(directory: &Path) -> std::path::PathBuf {
    directory.join("log")
}
