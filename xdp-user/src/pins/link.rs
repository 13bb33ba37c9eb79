//! Programs on interfaces, pinned or not.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use aya::programs::links::{FdLink, LinkError, PinnedLink};

use super::Pins;

/// A program that is attached. Unless it is pinned, dropping this takes it off.
#[derive(Debug)]
pub struct Attached<L> {
    link: L,
    pin: Option<PathBuf>,
}

impl<L> Attached<L> {
    /// Takes the program off.
    pub fn detach(self) {
        if let Some(pin) = &self.pin
            && let Err(error) = remove(pin)
        {
            log::error!("a program stays attached: {error:#}");
        }
        drop(self.link);
    }
}

impl Pins {
    /// The link of that name that an earlier controller left, if it is on the interface `index` or
    /// on a device above it. The program on it is to be replaced, and the link then to be
    /// [held](Self::hold).
    ///
    /// # Errors
    /// Fails when the kernel refuses, or has something else there.
    pub fn adopt<L>(&self, name: &str, index: u32) -> Result<Option<L>>
    where
        L: TryFrom<FdLink, Error = LinkError>,
    {
        let Some(path) = self.link_path(name).filter(|_| self.mode(index).is_some()) else {
            return Ok(None);
        };
        let found = || format!("cannot take over what is pinned at {}", path.display());
        match open(&path).with_context(found)? {
            Some(link) => Ok(Some(FdLink::from(link).try_into().with_context(found)?)),
            None => Ok(None),
        }
    }

    /// Keeps a program attached when this process ends, if levee pins: `adopted` links are pinned
    /// already.
    ///
    /// # Errors
    /// Fails when the kernel refuses; the program is then taken off, unless it was adopted.
    pub fn hold<L>(&mut self, name: &str, link: L, adopted: bool) -> Result<Attached<L>>
    where
        L: TryFrom<FdLink, Error = LinkError> + TryInto<FdLink, Error = LinkError>,
    {
        let Some(path) = self.link_path(name) else {
            return Ok(Attached { link, pin: None });
        };
        let link = if adopted {
            // Maps and program arrays that a program in force needs stay, whatever comes.
            if let Some(made) = &mut self.made {
                let links = path.parent();
                made.retain(|made| made.parent() == links);
            }
            link
        } else {
            remove(&path)?;
            let refused = || format!("cannot pin a program at {}", path.display());
            let link: FdLink = link.try_into().with_context(refused)?;
            let pinned = link.pin(&path).with_context(refused)?;
            self.made(path.clone());
            FdLink::from(pinned).try_into().with_context(refused)?
        };
        self.used.insert(path.clone());
        Ok(Attached {
            link,
            pin: Some(path),
        })
    }

    fn link_path(&self, name: &str) -> Option<PathBuf> {
        Some(self.place.as_ref()?.links().join(name))
    }
}

/// The link pinned at a path; `None` when there is none.
pub(super) fn open(path: &Path) -> Result<Option<PinnedLink>> {
    match PinnedLink::from_pin(path) {
        Ok(link) => Ok(Some(link)),
        Err(LinkError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Removes a pin, if there is one.
pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove the pin {}", path.display()))
        }
        _ => Ok(()),
    }
}
