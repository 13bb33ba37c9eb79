//! Temporary directories, and the removal of those that a killed lab left.
use std::{env, fs, path::Path, process};

use anyhow::{Context as _, Result};
use tempfile::{Builder, TempDir};

const PREFIX: &str = "levee-lab-";

/// A directory removed when dropped; its name carries this process's id.
///
/// # Errors
/// Fails when the system's directory for temporary files is not writable.
pub fn directory() -> Result<TempDir> {
    sweep()?;
    Builder::new()
        .prefix(&format!("{PREFIX}{}-", process::id()))
        .tempdir()
        .context("cannot make a temporary directory")
}

/// Removes the directories of labs whose process is gone.
fn sweep() -> Result<()> {
    let dir = env::temp_dir();
    let entries = fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", dir.display()))?;
        let owner = entry.file_name().to_str().and_then(owner);
        if owner.is_some_and(|id| !Path::new("/proc").join(id.to_string()).exists()) {
            // Another lab may be sweeping too: what is gone already needs no removal.
            fs::remove_dir_all(entry.path()).ok();
        }
    }
    Ok(())
}

/// The process id in a directory's name, if it is one of ours.
fn owner(file_name: &str) -> Option<u32> {
    file_name
        .strip_prefix(PREFIX)?
        .split('-')
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::owner;

    #[test]
    fn only_our_own_directories_have_an_owner() {
        assert_eq!(owner("levee-lab-4711-xyz"), Some(4711));
        assert_eq!(owner("levee-lab-"), None);
        assert_eq!(owner("systemd-private-4711-xyz"), None);
    }
}
