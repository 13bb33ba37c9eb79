//! Maps that outlive the controller.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf,
    maps::{Map, MapInfo},
};
use xdp_common::abi::{PINNED, names};

use super::{Pins, layout::Layout, layout::data, link};

/// Pinned maps that the programs are to be loaded with.
#[derive(Debug, Default)]
pub struct Adopted(Vec<(&'static str, PathBuf)>);

impl Adopted {
    /// Whether there is none: then the data path starts from nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names of the maps, and where they are pinned.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &PathBuf)> {
        self.0.iter().map(|(name, path)| (*name, path))
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(adopted, _)| *adopted == name)
    }
}

impl Pins {
    /// The maps that an earlier controller left. `fresh` is the same object loaded with maps of its
    /// own, which show how they have to be laid out, but for the numbers of entries in `sizes`.
    ///
    /// # Errors
    /// Refuses a map that is laid out differently: what is in it would be taken for something else.
    pub fn adoptable(&self, fresh: &Ebpf, sizes: &[(&str, u32)]) -> Result<Adopted> {
        let mut adopted = Adopted::default();
        let Some(place) = &self.place else {
            return Ok(adopted);
        };
        let path = |name| place.maps().join(name);
        // Pinned last: without it, the others are of a start that was cut off.
        if !path(names::CONTROL).exists() {
            return Ok(adopted);
        }
        for name in PINNED {
            let path = path(name);
            if !path.exists() {
                continue;
            }
            let info = MapInfo::from_pin(&path)
                .with_context(|| format!("cannot examine the map pinned at {}", path.display()))?;
            let (pinned, mut expected) = (Layout::of(&info)?, layout(fresh, name)?);
            if let Some((_, entries)) = sizes.iter().find(|(sized, _)| *sized == name) {
                expected.max_entries = *entries;
            }
            if pinned != expected {
                bail!(
                    "the map {name} pinned at {} is {pinned}; this levee expects {expected}. It is \
                     of another version of levee, or of other settings: start levee with those, \
                     or take the old data path off first, with `levee detach`",
                    path.display()
                );
            }
            adopted.0.push((name, path));
        }
        Ok(adopted)
    }

    /// Pins the maps of an object that are not pinned yet, and its program arrays.
    ///
    /// # Errors
    /// Fails when the object lacks one, or the kernel refuses.
    pub fn pin_maps(&mut self, ebpf: &Ebpf, adopted: &Adopted) -> Result<()> {
        let Some(place) = &self.place else {
            return Ok(());
        };
        place.make()?;
        let (maps, programs) = (place.maps(), place.programs());
        for (name, map) in ebpf.maps() {
            if let Map::ProgramArray(array) = map {
                let id = array.info()?.id();
                let path = programs.join(format!("{name}-{id}"));
                self.used.insert(path.clone());
                self.pin_map(map, path)?;
            }
        }
        for name in PINNED {
            if !adopted.has(name) {
                self.pin_map(map(ebpf, name)?, maps.join(name))?;
            }
        }
        Ok(())
    }

    fn pin_map(&mut self, map: &Map, path: PathBuf) -> Result<()> {
        link::remove(&path)?;
        map.pin(&path)
            .with_context(|| format!("cannot pin a map at {}", path.display()))?;
        self.made(path);
        Ok(())
    }

    /// Whether another version of levee has left maps, which this one cannot take over.
    #[must_use]
    pub fn has_foreign_maps(&self) -> bool {
        let Some(place) = &self.place else {
            return false;
        };
        let (own, root) = (place.maps(), place.root());
        let listed = fs::read_dir(root).into_iter().flatten().flatten();
        let mut others = listed.map(|entry| entry.path());
        others.any(|path| path != own && path.join(names::CONTROL).exists())
    }
}

fn layout(ebpf: &Ebpf, name: &str) -> Result<Layout> {
    let info = data(map(ebpf, name)?).info();
    Layout::of(&info.with_context(|| format!("cannot examine the map {name}"))?)
}

fn map<'a>(ebpf: &'a Ebpf, name: &str) -> Result<&'a Map> {
    ebpf.map(name).with_context(|| {
        format!("the eBPF object has no map {name}: was it built from this source?")
    })
}
