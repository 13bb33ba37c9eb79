//! Child processes that never outlive the lab.
use std::{
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus},
    sync::{LazyLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How often a process is looked at while waiting for it.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// How long a process may take to end after SIGTERM before it is killed.
pub const TERMINATE_TIMEOUT: Duration = Duration::from_secs(10);

/// A running child, killed by its process id when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts a command made by [`Netns::command`](crate::netns::Netns::command).
    ///
    /// # Errors
    /// Fails when the program does not exist.
    pub fn spawn(name: &str, command: Command) -> Result<Self> {
        let child = spawn_from_lasting_thread(command)
            .with_context(|| format!("cannot start {name}: is it installed?"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its standard input and output, if the command has pipes for both and nobody took them.
    pub fn pipes(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        self.child.stdin.take().zip(self.child.stdout.take())
    }

    /// The exit status if it has ended.
    ///
    /// # Errors
    /// Those of waitpid.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("cannot wait for {}", self.name))
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// Fails when it is still running after `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("{} still runs after {timeout:?}", self.name);
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// Fails when the process has ended and been waited for.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid()?, signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Asks it to end with SIGTERM and waits.
    ///
    /// # Errors
    /// Fails when it has not ended after [`TERMINATE_TIMEOUT`]; dropping it then kills it.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.try_wait()? {
            return Ok(status);
        }
        self.signal(Signal::SIGTERM)?;
        self.wait(TERMINATE_TIMEOUT)
    }

    fn pid(&self) -> Result<Pid> {
        let id = i32::try_from(self.child.id()).context("process id out of range")?;
        Ok(Pid::from_raw(id))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended already, which is all that is wanted.
        if self.child.kill().is_ok() {
            self.child.wait().ok();
        }
    }
}

type Request = (Command, mpsc::Sender<std::io::Result<Child>>);

/// The parent-death signal fires when the *thread* that forked ends, so children that must outlive
/// their caller are forked by a thread that lasts as long as the process.
fn spawn_from_lasting_thread(command: Command) -> Result<Child> {
    static SPAWNER: LazyLock<mpsc::Sender<Request>> = LazyLock::new(|| {
        let (sender, receiver) = mpsc::channel::<Request>();
        thread::spawn(move || {
            for (mut command, reply) in receiver {
                // The caller waits for the reply; if it is gone, dropping the handle is right.
                reply.send(command.spawn()).ok();
            }
        });
        sender
    });
    let (reply, answer) = mpsc::channel();
    SPAWNER
        .send((command, reply))
        .context("the spawner thread ended")?;
    Ok(answer.recv().context("the spawner thread ended")??)
}
