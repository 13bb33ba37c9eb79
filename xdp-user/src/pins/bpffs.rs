//! The file system that pins live in.

use std::{fs::File, io, path::Path};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, fstatfs, statfs},
};

/// Where it is mounted on every machine that systemd starts.
pub const MOUNT_POINT: &str = "/sys/fs/bpf";

/// Makes sure that a directory, which need not exist yet, is on a BPF file system. Mounts one at
/// [`MOUNT_POINT`] where there is none and the directory is to be below it.
///
/// # Errors
/// Says what an operator has to mount, or what else to choose.
pub(super) fn ensure(directory: &Path) -> Result<()> {
    let existing = directory.ancestors().find(|path| path.exists());
    let existing = existing.unwrap_or(Path::new("/"));
    if is_bpffs(existing)? {
        return Ok(());
    }
    if !directory.starts_with(MOUNT_POINT) {
        bail!(
            "{} is not on a BPF file system: mount one there (mount -t bpf bpf DIRECTORY), or \
             choose a directory below {MOUNT_POINT}",
            existing.display()
        );
    }
    mount_once().with_context(|| {
        format!(
            "there is no BPF file system at {MOUNT_POINT}, and levee cannot mount it: as root, \
             mount -t bpf bpf {MOUNT_POINT}. Or set pin_dir = \"off\" (--pin-dir off): then \
             protection ends whenever levee's process does"
        )
    })
}

fn is_bpffs(path: &Path) -> Result<bool> {
    let found = statfs(path).with_context(|| format!("cannot examine {}", path.display()))?;
    Ok(found.filesystem_type() == BPF_FS_MAGIC)
}

/// Mounts the file system unless another process is faster. Two, one above the other, would hide
/// what was pinned in the lower one.
fn mount_once() -> Result<()> {
    let below = File::open(MOUNT_POINT)?;
    if fstatfs(&below)?.filesystem_type() == BPF_FS_MAGIC {
        return Ok(());
    }
    // All who found nothing mounted have the same directory open, and wait for each other here.
    let _turn = Flock::lock(below, FlockArg::LockExclusive)
        .map_err(|(_, errno)| anyhow!(io::Error::from(errno)))?;
    if is_bpffs(Path::new(MOUNT_POINT))? {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        Some("bpf"),
        MOUNT_POINT,
        Some("bpf"),
        flags,
        Some("mode=0700"),
    )
    .map_err(io::Error::from)?;
    log::info!("mounted a BPF file system at {MOUNT_POINT}");
    Ok(())
}
