//! BPF file systems that the kernel removes for us, with all that is pinned in them.
//!
//! As a network namespace of the lab, one lives as long as a file descriptor of this process, or a
//! process that uses it, does. So nothing stays attached however the lab ends, `kill -9` included.
use std::{
    fs::File,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    unistd::{chroot, fchdir},
};

/// Where it is, for those who use it.
pub const MOUNT_POINT: &str = "/sys/fs/bpf";

/// A BPF file system of its own.
#[derive(Clone, Debug)]
pub struct Bpffs {
    /// A mount namespace in which it is mounted, and everything else as it was.
    namespace: Arc<File>,
    /// What this process has for its root directory, in that namespace: in a guest, not the
    /// namespace's own.
    slash: Arc<File>,
    root: Arc<File>,
}

impl Bpffs {
    /// Makes an empty one.
    ///
    /// # Errors
    /// Fails without CAP_SYS_ADMIN.
    pub fn new() -> Result<Self> {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
            let nothing = None::<&str>;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(nothing, "/", nothing, private, nothing).context("cannot make mounts private")?;
            let flags = MsFlags::empty();
            mount(Some("bpf"), MOUNT_POINT, Some("bpf"), flags, nothing)
                .with_context(|| format!("cannot mount a BPF file system at {MOUNT_POINT}"))?;
            Ok(Self {
                namespace: Arc::new(File::open("/proc/thread-self/ns/mnt")?),
                slash: Arc::new(File::open("/")?),
                root: Arc::new(File::open(MOUNT_POINT)?),
            })
        });
        let made = made.join();
        made.map_err(|_| anyhow!("the thread that mounts a BPF file system panicked"))?
    }

    /// A directory in it, as this process sees it.
    #[must_use]
    pub fn path(&self, directory: &Path) -> PathBuf {
        let below = directory.strip_prefix(MOUNT_POINT).unwrap_or(directory);
        PathBuf::from(format!("/proc/self/fd/{}", self.root.as_raw_fd())).join(below)
    }

    /// Has a command run with it.
    pub fn give(&self, command: &mut Command) {
        let (namespace, slash) = (Arc::clone(&self.namespace), Arc::clone(&self.slash));
        // SAFETY: between fork and exec only async-signal-safe system calls are made; nothing is
        // allocated and no lock is taken.
        unsafe {
            command.pre_exec(move || {
                // Entering a mount namespace leads to its root directory, and makes it ours.
                let here = nix::fcntl::open(
                    ".",
                    nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_CLOEXEC,
                    nix::sys::stat::Mode::empty(),
                )?;
                setns(namespace.as_fd(), CloneFlags::CLONE_NEWNS)?;
                fchdir(slash.as_fd())?;
                chroot(".")?;
                Ok(fchdir(here)?)
            });
        }
    }
}
