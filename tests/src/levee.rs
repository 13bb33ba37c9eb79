//! Runs the real `levee` binary inside a namespace.
use std::{
    env,
    ffi::OsString,
    fs, mem,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use ::levee::pins;
use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::{
    bpffs::Bpffs, http, metrics::Metrics, netns::Netns, process::Process, relay::pinned, scratch,
};

/// Where levee serves its metrics by default.
pub const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9977);

const BINARY_VARIABLE: &str = "LEVEE_BIN";
/// Long, for the kernel of an emulated guest verifies the programs with a tenth of the speed.
const START_TIMEOUT: Duration = Duration::from_secs(90);
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

const CONFIGURATION: &str = "levee.toml";

/// A levee that runs by a configuration file.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProxySetup<'a> {
    /// The CPU it may use; `None` for all.
    pub cpu: Option<usize>,
    /// File descriptors it may have; `None` for as many as this process.
    pub descriptors: Option<u32>,
    /// The interfaces it protects.
    pub interfaces: &'a [&'a str],
    /// Services and other tables of the configuration.
    pub configuration: &'a str,
}

impl ProxySetup<'_> {
    fn file(&self, secret: &str, socket: &str) -> String {
        let interfaces = self.interfaces.iter();
        let interfaces = interfaces.map(|name| format!("[[interface]]\nname = \"{name}\"\n"));
        format!(
            "secret_file = {secret:?}\ncontrol_socket = {socket:?}\n{}{}",
            interfaces.collect::<String>(),
            self.configuration
        )
    }
}

/// A running levee, with a BPF file system of its own for its pins; dropping it kills it.
#[derive(Debug)]
pub struct Levee {
    netns: Netns,
    bpffs: Bpffs,
    program: OsString,
    arguments: Vec<OsString>,
    process: Process,
    directory: TempDir,
}

impl Levee {
    /// Runs `levee run` with `--iface` and `--protect` for each of these, and waits until it says
    /// that it is ready.
    ///
    /// # Errors
    /// Quotes levee's log when it ends or is not ready in time.
    pub fn protect(netns: &Netns, interfaces: &[&str], services: &[SocketAddr]) -> Result<Self> {
        let directory = scratch::directory()?;
        // What is made elsewhere by default would meet that of another lab, or of this machine.
        let own = |name: &str| directory.path().join(name).display().to_string();
        let mut arguments = vec![
            "run".to_owned(),
            "--secret-file".to_owned(),
            own("secret"),
            "--control-socket".to_owned(),
            own("levee.sock"),
        ];
        for interface in interfaces {
            arguments.extend(["--iface".to_owned(), (*interface).to_owned()]);
        }
        for service in services {
            arguments.extend(["--protect".to_owned(), service.to_string()]);
        }
        Self::start_in(directory, netns, &arguments)
    }

    /// Runs levee with any arguments that make it serve metrics at [`METRICS`], and waits as
    /// [`protect`](Self::protect) does. Secret and control socket should be in a directory of the
    /// caller's.
    ///
    /// # Errors
    /// As [`protect`](Self::protect).
    pub fn start(netns: &Netns, arguments: &[String]) -> Result<Self> {
        Self::start_in(scratch::directory()?, netns, arguments)
    }

    /// Runs `levee run` with a configuration file of these settings and a secret and a control
    /// socket of its own, and waits as [`protect`](Self::protect) does.
    ///
    /// # Errors
    /// As [`protect`](Self::protect).
    pub fn configured(netns: &Netns, setup: &ProxySetup<'_>) -> Result<Self> {
        let directory = scratch::directory()?;
        let own = |name: &str| directory.path().join(name).display().to_string();
        let file = own(CONFIGURATION);
        fs::write(&file, setup.file(&own("secret"), &own("levee.sock")))
            .context("cannot write levee's configuration")?;
        let arguments = ["run".to_owned(), "--config".to_owned(), file];
        let binary = binary()?;
        let binary = binary.to_string_lossy();
        let mut command = match setup.descriptors {
            None => pinned(netns, setup.cpu, &binary),
            Some(descriptors) => {
                let mut command = pinned(netns, setup.cpu, "prlimit");
                command.args([&format!("--nofile={descriptors}:{descriptors}"), &*binary]);
                command
            }
        };
        command.args(arguments);
        Self::spawn(directory, netns, command)
    }

    /// Writes another configuration for a levee that [`configured`](Self::configured) started, for
    /// it to reload.
    ///
    /// # Errors
    /// Fails when the file cannot be written.
    pub fn reconfigure(&self, setup: &ProxySetup<'_>) -> Result<()> {
        let own = |name: &str| self.directory.path().join(name).display().to_string();
        let text = setup.file(&own("secret"), &own("levee.sock"));
        fs::write(own(CONFIGURATION), text).context("cannot write levee's configuration")
    }

    /// Runs a command of `levee` that talks to this one, and returns what it prints.
    ///
    /// # Errors
    /// Quotes what it prints when it fails.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        let socket = self.control_socket().display().to_string();
        let mut command = self.netns.command(&binary()?.to_string_lossy());
        command.args(arguments).args(["--socket", &socket]);
        let output = command.output().context("cannot run levee")?;
        if !output.status.success() {
            bail!("levee {arguments:?} failed: {output:?}");
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn start_in(directory: TempDir, netns: &Netns, arguments: &[String]) -> Result<Self> {
        let mut command = netns.command(&binary()?.to_string_lossy());
        command.args(arguments);
        Self::spawn(directory, netns, command)
    }

    fn spawn(directory: TempDir, netns: &Netns, command: Command) -> Result<Self> {
        let bpffs = Bpffs::new()?;
        let program = command.get_program().into();
        let arguments = command.get_args().map(Into::into).collect();
        let mut levee = Self {
            netns: netns.clone(),
            process: launch(command, directory.path(), &bpffs)?,
            bpffs,
            program,
            arguments,
            directory,
        };
        levee.wait_until_ready()?;
        Ok(levee)
    }

    /// Kills it, so that it leaves everything as it is, and waits until it is gone.
    ///
    /// # Errors
    /// Fails when it has ended already.
    pub fn kill(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGKILL)?;
        self.process.wait(KILL_TIMEOUT).map(drop)
    }

    /// Runs it once more as it was run, with another log, and waits until it is ready.
    ///
    /// # Errors
    /// Quotes its log when it ends or is not ready in time.
    pub fn start_again(&mut self) -> Result<()> {
        let program = self.program.to_string_lossy();
        let mut command = self.netns.command(&program);
        command.args(&self.arguments);
        self.process = launch(command, self.directory.path(), &self.bpffs)?;
        self.wait_until_ready()
    }

    /// Runs it once more as it was run, beside the first, to take over from it; and waits until that
    /// one has ended, in good order, and this one is ready.
    ///
    /// # Errors
    /// Quotes its log when it ends or is not ready in time.
    pub fn replace(&mut self) -> Result<()> {
        let program = self.program.to_string_lossy();
        let mut command = self.netns.command(&program);
        command.args(&self.arguments).arg("--replace");
        let successor = launch(command, self.directory.path(), &self.bpffs)?;
        let mut former = mem::replace(&mut self.process, successor);
        let status = former.wait(START_TIMEOUT)?;
        if !status.success() {
            bail!(
                "the former levee ended with {status}; log of the new one:\n{}",
                self.log()?
            );
        }
        self.wait_until_ready()
    }

    /// Where it pins its data path.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        let directory = pins::default_directory(&self.control_socket());
        self.bpffs.path(&directory)
    }

    /// Scrapes its metrics.
    ///
    /// # Errors
    /// Fails when it does not answer, or answers what is not Prometheus' text format.
    pub fn metrics(&self) -> Result<Metrics> {
        match http::get_in(&self.netns, METRICS, "/metrics", SCRAPE_TIMEOUT)? {
            (200, body) => Metrics::parse(&body),
            (status, body) => bail!("levee's /metrics answers {status}: {body}"),
        }
    }

    /// The control socket of a levee that [`protect`](Self::protect) started.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.directory.path().join("levee.sock")
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
        fs::read_to_string(log_path(self.directory.path())).context("cannot read levee's log")
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// Fails when it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Ends it with SIGTERM; returns its exit status and its log.
    ///
    /// # Errors
    /// Fails when it does not end in time.
    pub fn stop(mut self) -> Result<(ExitStatus, String)> {
        let status = self.process.terminate()?;
        Ok((status, self.log()?))
    }

    /// Waits until it has ended, as it was told; returns its exit status and its log.
    ///
    /// # Errors
    /// Fails when it does not end within `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<(ExitStatus, String)> {
        let status = self.process.wait(limit)?;
        Ok((status, self.log()?))
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let answer = http::get_in(&self.netns, METRICS, "/-/ready", SCRAPE_TIMEOUT);
            if matches!(answer, Ok((200, _))) {
                return Ok(());
            }
            if let Some(status) = self.process.try_wait()? {
                bail!(
                    "levee ended ({status}) before it was ready; its log:\n{}",
                    self.log()?
                );
            }
            if Instant::now() > deadline {
                bail!(
                    "levee is not ready after {START_TIMEOUT:?} (last answer: {answer:?}); its \
                     log:\n{}",
                    self.log()?
                );
            }
            thread::sleep(RETRY_INTERVAL);
        }
    }
}

/// The `levee` binary: `LEVEE_BIN`, or the one beside the running program, or for tests the release
/// build of the same target directory.
///
/// # Errors
/// Names the places looked at.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os(BINARY_VARIABLE).map(PathBuf::from) {
        if path.is_file() {
            return Ok(path);
        }
        bail!(
            "{BINARY_VARIABLE} is {}, which is not a file",
            path.display()
        );
    }
    let program = env::current_exe().context("cannot tell where this program is")?;
    let beside = program.with_file_name("levee");
    // A test runs from target/PROFILE/deps.
    let target = program.ancestors().nth(3).unwrap_or(Path::new("/"));
    let places = [beside, target.join("release/levee")];
    let found = places.iter().find(|place| place.is_file()).cloned();
    found.with_context(|| {
        format!("no levee binary at {places:?}: run `cargo xtask build` or set {BINARY_VARIABLE}")
    })
}

fn launch(mut command: Command, directory: &Path, bpffs: &Bpffs) -> Result<Process> {
    let log = fs::File::create(log_path(directory)).context("cannot make levee's log")?;
    command
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    bpffs.give(&mut command);
    Process::spawn("levee", command)
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join("levee.log")
}
