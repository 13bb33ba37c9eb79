//! One controller for one directory of pins.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

/// How often a directory may vanish between making and locking it, for a levee that ends.
const VANISHED_MAX: u32 = 10;

/// How often a locked directory is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// A locked directory. The kernel unlocks it when the process ends, however it does.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    _locked: Flock<File>,
}

impl DirectoryLock {
    /// Makes the directory if there is none, and locks it.
    ///
    /// # Errors
    /// Fails when another process has locked it, and does not leave it within `patience`.
    pub(super) fn take(directory: &Path, patience: Duration) -> Result<Self> {
        let name = directory.display();
        let start = Instant::now();
        let mut vanished = 0;
        while vanished < VANISHED_MAX {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .with_context(|| format!("cannot make the directory {name} for pins"))?;
            let file = match File::open(directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    vanished += 1;
                    continue;
                }
                opened => opened.with_context(|| format!("cannot open {name}"))?,
            };
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(locked) if is_at(&locked, directory)? => return Ok(Self { _locked: locked }),
                // Whoever had it locked has removed it meanwhile.
                Ok(_) => vanished += 1,
                Err((_, Errno::EWOULDBLOCK)) if start.elapsed() < patience => thread::sleep(LOOK),
                Err((_, Errno::EWOULDBLOCK)) => bail!(
                    "another levee runs with its data path pinned at {name}. Stop it first; or, if \
                     there are to be two, give this one a control socket (control_socket, \
                     --control-socket) or a directory for pins (pin_dir, --pin-dir) of its own"
                ),
                Err((_, errno)) => {
                    return Err(anyhow!(errno).context(format!("cannot lock {name}")));
                }
            }
        }
        bail!("{name} was removed {VANISHED_MAX} times while levee wanted to lock it");
    }
}

/// Whether a directory is still the one at that path.
fn is_at(file: &File, path: &Path) -> Result<bool> {
    let opened = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((opened.dev(), opened.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot examine {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_made_and_locked_once() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("a/b");
        let lock = DirectoryLock::take(&directory, Duration::ZERO).unwrap();
        let error = DirectoryLock::take(&directory, Duration::ZERO)
            .unwrap_err()
            .to_string();
        assert!(error.contains("another levee runs with"), "{error}");
        drop(lock);
        DirectoryLock::take(&directory, Duration::ZERO).unwrap();
    }

    #[test]
    fn a_directory_that_was_made_again_is_another() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("a");
        let former = DirectoryLock::take(&directory, Duration::ZERO).unwrap();
        fs::remove_dir(&directory).unwrap();
        let _lock = DirectoryLock::take(&directory, Duration::ZERO).unwrap();
        assert!(!is_at(&former._locked, &directory).unwrap());
    }
}
