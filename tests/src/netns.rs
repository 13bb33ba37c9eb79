//! Network namespaces that the kernel removes for us.
//!
//! A namespace here has no name: it lives as long as a file descriptor of this process, or a
//! process inside it, does. So nothing is left behind however the lab ends, `kill -9` included, and
//! two labs can never meet. To look inside one from a shell: `nsenter --net=<Netns::path()>`.
use std::{
    fs::{self, File},
    io,
    net::IpAddr,
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    panic::resume_unwind,
    path::PathBuf,
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::{prctl, signal::Signal},
    unistd::getppid,
};

/// How long an address may take to become usable; practically always under a millisecond.
pub const ADDRESS_WAIT_MAX: Duration = Duration::from_secs(5);

/// One network namespace, with its loopback interface up.
#[derive(Clone, Debug)]
pub struct Netns {
    name: &'static str,
    file: Arc<File>,
}

impl Netns {
    /// Makes an empty namespace; `name` is used in messages only.
    ///
    /// # Errors
    /// Fails without CAP_SYS_ADMIN.
    pub fn new(name: &'static str) -> Result<Self> {
        let file = in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("cannot make network namespace {name} (root needed)"))?;
            File::open("/proc/thread-self/ns/net").context("cannot open /proc/thread-self/ns/net")
        })?;
        let netns = Self {
            name,
            file: Arc::new(file),
        };
        netns.tool("ip link set lo up")?;
        Ok(netns)
    }

    /// What it is called in messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// A path that names this namespace for as long as this process keeps it, for `nsenter` and
    /// `ip link ... netns`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let fd = self.file.as_raw_fd();
        PathBuf::from(format!("/proc/{}/fd/{fd}", std::process::id()))
    }

    /// Runs `f` on a thread inside the namespace. Sockets it opens stay there.
    ///
    /// # Errors
    /// Those of `f`, or of entering the namespace.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        in_thread(|| {
            self.enter()?;
            f()
        })
    }

    /// As `run`, with /sys showing this namespace's devices: sysfs shows those of the namespace it
    /// was mounted in.
    ///
    /// # Errors
    /// As `run`, and when sysfs cannot be mounted.
    pub fn run_with_sysfs<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        in_thread(|| {
            self.enter()?;
            let nothing = None::<&str>;
            unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(nothing, "/", nothing, private, nothing).context("cannot make mounts private")?;
            mount(
                Some("sysfs"),
                "/sys",
                Some("sysfs"),
                MsFlags::empty(),
                nothing,
            )
            .context("cannot mount sysfs")?;
            f()
        })
    }

    /// Moves the calling thread into the namespace, for good: for threads that do nothing else.
    ///
    /// # Errors
    /// Fails without CAP_SYS_ADMIN.
    pub fn enter(&self) -> Result<()> {
        setns(&self.file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter network namespace {}", self.name))
    }

    /// A command that will run inside the namespace, in a process group of its own (Ctrl-C is the
    /// lab's to handle), and be killed if the thread that spawned it ends: use
    /// [`Process`](crate::process::Process) for what must outlive the calling thread.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let file = Arc::clone(&self.file);
        let parent = nix::unistd::getpid();
        let mut command = Command::new(program);
        command.process_group(0);
        // SAFETY: between fork and exec only async-signal-safe system calls are made; nothing is
        // allocated and no lock is taken.
        unsafe {
            command.pre_exec(move || {
                setns(&file, CloneFlags::CLONE_NEWNET)?;
                prctl::set_pdeathsig(Signal::SIGKILL)?;
                // The parent may have died before the line above: then no signal would come.
                if getppid() == parent {
                    Ok(())
                } else {
                    Err(io::Error::from(Errno::ESRCH))
                }
            });
        }
        command
    }

    /// Runs a command line (split at white space, no quoting) inside and returns its output.
    ///
    /// # Errors
    /// Names the command and quotes what it wrote when it fails or is not installed.
    pub fn tool(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("empty command line")?;
        let output = self
            .command(program)
            .args(words)
            .output()
            .with_context(|| format!("cannot run `{program}`: is it installed?"))?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!(
                "`{line}` in namespace {} failed ({}): {}",
                self.name,
                output.status,
                stderr.trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Gives an interface an address and waits until it can be used: the kernel makes an IPv6
    /// address usable from a work queue of its own, which other changes to network devices hold up.
    ///
    /// # Errors
    /// Fails when `ip` refuses, and when the address is not usable within [`ADDRESS_WAIT_MAX`].
    pub fn address(&self, ip: IpAddr, length: u8, dev: &str) -> Result<()> {
        let options = if ip.is_ipv6() { " nodad" } else { "" };
        self.tool(&format!("ip address add {ip}/{length}{options} dev {dev}"))?;
        let start = Instant::now();
        // The route that delivers to the address comes last.
        let family = if ip.is_ipv6() { "-6" } else { "-4" };
        let route = format!("ip {family} route show table local {ip}");
        while self.tool(&route)?.trim().is_empty() {
            if start.elapsed() > ADDRESS_WAIT_MAX {
                bail!(
                    "{ip} on {dev} in namespace {} is not usable after {ADDRESS_WAIT_MAX:?}",
                    self.name
                );
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Sets a network sysctl of this namespace, named as in `net.ipv4.tcp_syncookies`; a dot
    /// within an interface name is not supported.
    ///
    /// # Errors
    /// Names the sysctl when it does not exist or refuses the value.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = PathBuf::from("/proc/sys").join(name.replace('.', "/"));
        self.run(|| {
            fs::write(&path, value)
                .with_context(|| format!("cannot set {name} to {value} in {}", self.name))
        })
    }
}

fn in_thread<T: Send>(f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name("levee-lab-netns".into())
            .spawn_scoped(scope, f)
            .context("cannot start a thread")?
            .join()
            .unwrap_or_else(|panic| resume_unwind(panic))
    })
}
