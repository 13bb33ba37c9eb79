//! The data path, pinned in a BPF file system, so that it outlives the controller: programs stay on
//! their interfaces, and the maps keep what they hold, until the next controller takes them over or
//! somebody [takes them off](take_off).
//!
//! ```text
//! /sys/fs/bpf/levee/INSTANCE/     locked by the running controller
//!   links/xdp-native-2            programs on interfaces, by index
//!   links/tc-2
//!   links/tc-inner-5              the same on VLAN devices
//!   v1/CONTROL ...                maps, by the version of what they mean
//!   programs/NAME-ID              program arrays, of the programs in force
//! ```
//!
//! Links know nothing of maps. So a levee with another version of the maps starts with empty ones,
//! replaces the programs on the links that it finds, and drops the old maps when nobody uses them.

mod bpffs;
mod layout;
mod link;
mod lock;
mod maps;
mod place;

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

pub use self::{bpffs::MOUNT_POINT, link::Attached, maps::Adopted};
use self::{lock::DirectoryLock, place::Place};
use crate::{attach::Mode, netlink::link::Link};

/// The directory of the pins of a levee, by default: each has a control socket of its own.
#[must_use]
pub fn default_directory(control_socket: &Path) -> PathBuf {
    let bytes = control_socket.as_os_str().as_encoded_bytes();
    let mut instance = String::with_capacity(bytes.len());
    for byte in bytes.iter().skip_while(|byte| **byte == b'/') {
        match byte {
            b'/' => instance.push('-'),
            // A BPF file system has no names with dots.
            _ if byte.is_ascii_alphanumeric() || *byte == b'_' => instance.push((*byte).into()),
            _ => instance += &format!("%{byte:02X}"),
        }
    }
    Path::new(MOUNT_POINT).join("levee").join(instance)
}

/// Name of the link of the XDP program on an interface.
#[must_use]
pub fn xdp_name(mode: Mode, index: u32) -> String {
    format!("{}{}-{index}", place::XDP, mode.label())
}

/// Name of the link of the TC program on an interface.
#[must_use]
pub fn tc_name(index: u32) -> String {
    format!("tc-{index}")
}

/// Name of the link of the TC program on a VLAN device.
#[must_use]
pub fn tc_inner_name(index: u32) -> String {
    format!("tc-inner-{index}")
}

/// Takes off what a levee that died has left pinned in a directory. Clients that were answered may
/// still be admitted for as long as `linger`.
///
/// # Errors
/// Fails when there is nothing, when a levee runs with it, or the kernel refuses.
pub fn take_off(directory: &Path, linger: Duration) -> Result<()> {
    ensure!(
        directory.exists(),
        "nothing is pinned at {}: if levee was given another control socket or directory for pins, \
         name it with --socket or --pin-dir",
        directory.display()
    );
    let _lock = DirectoryLock::take(directory, Duration::ZERO)?;
    let place = Place::new(directory);
    let [xdp, _] = place.pinned()?;
    xdp.iter().try_for_each(|path| place::detach(path))?;
    thread::sleep(linger);
    place.remove()
}

/// Where the data path of this levee is pinned, if it is. What a start has pinned is removed again
/// when this is dropped before it is [settled](Self::settle).
#[derive(Debug)]
pub struct Pins {
    /// `None` when levee does not pin.
    place: Option<Place>,
    lock: Option<DirectoryLock>,
    claimed: Instant,
    /// What an earlier controller left on the interfaces of this network namespace, by index.
    found: HashMap<u32, Found>,
    /// Links and program arrays that are in use.
    used: HashSet<PathBuf>,
    /// What this start has pinned; `None` once settled.
    made: Option<Vec<PathBuf>>,
}

/// A pinned XDP program that is on an interface.
#[derive(Clone, Copy, Debug)]
struct Found {
    mode: Mode,
    program_id: u32,
}

impl Pins {
    /// Not to pin.
    #[must_use]
    pub fn off() -> Self {
        Self {
            place: None,
            lock: None,
            claimed: Instant::now(),
            found: HashMap::new(),
            used: HashSet::new(),
            made: Some(Vec::new()),
        }
    }

    /// Looks at what an earlier controller has pinned in a directory for these interfaces; it may
    /// still be running. `None` is for not to pin.
    ///
    /// # Errors
    /// Fails when that is no place for pins, or the kernel refuses.
    pub fn find(directory: Option<&Path>, links: &[Link]) -> Result<Self> {
        let mut pins = Self::off();
        if let Some(directory) = directory {
            bpffs::ensure(directory)?;
            let place = Place::new(directory);
            pins.found = found(&place, links)?;
            pins.place = Some(place);
        }
        Ok(pins)
    }

    /// Claims the directory, so that no other controller may use it. To be called before anything
    /// is pinned; once is enough.
    ///
    /// # Errors
    /// Fails when another levee runs with it, and does not leave it within `patience`.
    pub fn claim(&mut self, patience: Duration) -> Result<()> {
        if let (Some(place), None) = (&self.place, &self.lock) {
            self.lock = Some(DirectoryLock::take(place.root(), patience)?);
            self.claimed = Instant::now();
        }
        Ok(())
    }

    /// When the directory was claimed: nobody else has changed the maps since.
    #[must_use]
    pub const fn claimed(&self) -> Instant {
        self.claimed
    }

    /// Where the pins are; `None` when levee does not pin.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        Some(self.place.as_ref()?.root())
    }

    /// Whether an XDP program is one that an earlier controller left, to be replaced by this one.
    #[must_use]
    pub fn replaces(&self, program_id: u32) -> bool {
        let mut found = self.found.values();
        found.any(|found| found.program_id == program_id)
    }

    /// How an earlier controller attached its XDP program to the interface `index`, if it did.
    #[must_use]
    pub fn mode(&self, index: u32) -> Option<Mode> {
        Some(self.found.get(&index)?.mode)
    }

    /// The start is over: what it has pinned stays, and what is left of an earlier controller and
    /// not in use any more goes, programs as well as maps.
    ///
    /// # Errors
    /// Fails when something cannot be removed.
    pub fn settle(&mut self) -> Result<()> {
        self.made = None;
        if let Some(place) = &self.place {
            place.detach_links_but(&self.used)?;
            place.remove_maps_but(&self.used)?;
        }
        self.found.clear();
        Ok(())
    }

    /// Removes all pins of a levee that stops. What is pinned and not detached yet is detached.
    ///
    /// # Errors
    /// Fails when something cannot be removed.
    pub fn remove(&mut self) -> Result<()> {
        match &self.place {
            Some(place) => place.remove(),
            None => Ok(()),
        }
    }

    /// Notes what has to be undone if the start fails.
    fn made(&mut self, path: PathBuf) {
        if let Some(made) = &mut self.made {
            made.push(path);
        }
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        for path in self.made.iter().flatten().rev() {
            if let Err(error) = link::remove(path) {
                log::error!("{error:#}");
            }
        }
        if let (Some(place), Some(_)) = (&self.place, &self.lock) {
            place.remove_if_empty();
        }
    }
}

/// What is pinned and attached to one of these interfaces. A pin may be of an interface that is
/// gone, or of another network namespace; a program's id is the same nowhere else.
fn found(place: &Place, links: &[Link]) -> Result<HashMap<u32, Found>> {
    let mut found = HashMap::new();
    for link in links {
        for mode in [Mode::Native, Mode::Generic] {
            let Some(program_id) = place.program_id(&xdp_name(mode, link.index))? else {
                continue;
            };
            if link.xdp.contains(&program_id) {
                found.insert(link.index, Found { mode, program_id });
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_control_socket_has_a_directory_of_its_own() {
        let directory = |socket: &str| default_directory(Path::new(socket));
        assert_eq!(
            directory("/run/levee/levee.sock"),
            Path::new("/sys/fs/bpf/levee/run-levee-levee%2Esock")
        );
        assert_ne!(directory("/a-b"), directory("/a/b"));
        assert_ne!(directory("/a%2Db"), directory("/a-b"));
    }
}
