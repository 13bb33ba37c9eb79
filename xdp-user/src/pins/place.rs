//! What is where in a directory of pins.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use xdp_common::abi;

use super::link;

/// What names of links of XDP programs begin with.
pub(super) const XDP: &str = "xdp-";

/// A directory of pins.
#[derive(Debug)]
pub(super) struct Place(PathBuf);

impl Place {
    pub(super) fn new(directory: &Path) -> Self {
        Self(directory.into())
    }

    pub(super) fn root(&self) -> &Path {
        &self.0
    }

    pub(super) fn links(&self) -> PathBuf {
        self.0.join("links")
    }

    pub(super) fn maps(&self) -> PathBuf {
        self.0.join(format!("v{}", abi::VERSION))
    }

    pub(super) fn programs(&self) -> PathBuf {
        self.0.join("programs")
    }

    /// Makes the directories.
    pub(super) fn make(&self) -> Result<()> {
        for directory in [self.links(), self.maps(), self.programs()] {
            match fs::create_dir(&directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(error)
                        .with_context(|| format!("cannot make {}", directory.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Id of the program on the pinned link of that name; `None` when there is no such link.
    pub(super) fn program_id(&self, name: &str) -> Result<Option<u32>> {
        let path = self.links().join(name);
        let asked = || format!("cannot examine the pin {}", path.display());
        let Some(link) = link::open(&path).with_context(asked)? else {
            return Ok(None);
        };
        let info = aya::programs::links::FdLink::from(link).info();
        Ok(Some(info.with_context(asked)?.program_id()))
    }

    /// Pinned links of XDP programs, and those of TC programs.
    pub(super) fn pinned(&self) -> Result<[Vec<PathBuf>; 2]> {
        let (xdp, tc) = entries(&self.links())?
            .into_iter()
            .partition(|path| path.file_name().is_some_and(is_xdp));
        Ok([xdp, tc])
    }

    /// Takes all programs off whose links are not among `used`, XDP before TC: nobody is to be
    /// answered who could not be admitted.
    pub(super) fn detach_links_but(&self, used: &HashSet<PathBuf>) -> Result<()> {
        let pinned = self.pinned()?.concat();
        let unused = pinned.iter().filter(|path| !used.contains(*path));
        unused.into_iter().try_for_each(|path| detach(path))
    }

    /// Removes the maps of other versions, and program arrays that are not among `used`.
    pub(super) fn remove_maps_but(&self, used: &HashSet<PathBuf>) -> Result<()> {
        for path in entries(&self.programs())? {
            if !used.contains(&path) {
                link::remove(&path)?;
            }
        }
        let kept = [self.links(), self.maps(), self.programs()];
        for directory in entries(&self.0)? {
            if !kept.contains(&directory) {
                remove_directory(&directory)?;
            }
        }
        Ok(())
    }

    /// Removes everything.
    pub(super) fn remove(&self) -> Result<()> {
        self.detach_links_but(&HashSet::new())?;
        for directory in entries(&self.0)? {
            remove_directory(&directory)?;
        }
        self.remove_if_empty();
        Ok(())
    }

    /// Removes the directories that are empty.
    pub(super) fn remove_if_empty(&self) {
        for directory in [self.links(), self.maps(), self.programs(), self.0.clone()] {
            // Those that are not empty are meant to stay.
            let _ = fs::remove_dir(directory);
        }
    }
}

/// Takes off what is pinned at a path.
pub(super) fn detach(path: &Path) -> Result<()> {
    if let Some(link) = link::open(path)? {
        let unpinned = link.unpin();
        drop(unpinned.with_context(|| format!("cannot remove {}", path.display()))?);
        log::info!("detached what was pinned at {}", path.display());
    }
    Ok(())
}

fn is_xdp(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(XDP.as_bytes())
}

/// Removes a directory of pins that are no links.
fn remove_directory(directory: &Path) -> Result<()> {
    for path in entries(directory)? {
        link::remove(&path)?;
    }
    fs::remove_dir(directory).with_context(|| format!("cannot remove {}", directory.display()))
}

/// What is in a directory; nothing if there is none.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let listed = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect()),
    };
    listed.with_context(|| format!("cannot list {}", directory.display()))
}
