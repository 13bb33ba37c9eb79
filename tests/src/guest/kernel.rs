//! A kernel as a distribution's package has it: an image and its modules.
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

/// An unpacked kernel package.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The bootable image.
    pub image: PathBuf,
    /// `lib/modules/RELEASE`.
    modules: PathBuf,
}

/// A module, ready for `insmod`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// With underscores, as the kernel names it.
    pub name: String,
    /// The object file, not compressed.
    pub object: Vec<u8>,
}

impl Kernel {
    /// The kernel in a directory that a package was unpacked into.
    ///
    /// # Errors
    /// Fails unless there is exactly one, with its modules.
    pub fn in_directory(directory: &Path) -> Result<Self> {
        let mut images = entries(&directory.join("boot"))?;
        images.retain(|path| file_name(path).starts_with("vmlinuz-"));
        let [image] = &images[..] else {
            bail!("not one kernel in {}: {images:?}", directory.display());
        };
        let release = file_name(image).trim_start_matches("vmlinuz-").to_owned();
        // Where /lib is a part of /usr, packages put it there.
        let places = ["lib/modules", "usr/lib/modules"].map(|dir| directory.join(dir));
        let modules = places.map(|dir| dir.join(&release));
        let found = modules.iter().find(|dir| dir.is_dir());
        Ok(Self {
            image: image.clone(),
            modules: found
                .with_context(|| format!("no modules of {release} in {}", directory.display()))?
                .clone(),
        })
    }

    /// Modules and what they depend on, in the order to load them. What is built into the kernel is
    /// left out.
    ///
    /// # Errors
    /// Names a module that the kernel does not have.
    pub fn modules(&self, names: &[&str], busybox: &Path) -> Result<Vec<Module>> {
        let list = fs::read_to_string(self.modules.join("modules.builtin"))
            .context("cannot read the list of modules that are built in")?;
        let mut files = HashMap::new();
        find_modules(&self.modules.join("kernel"), &mut files)?;
        let mut loader = Loader {
            builtin: list.lines().map(module_name).collect(),
            files,
            busybox,
            loaded: Vec::new(),
        };
        for name in names {
            loader.add(name)?;
        }
        Ok(loader.loaded)
    }
}

struct Loader<'a> {
    builtin: Vec<String>,
    files: HashMap<String, PathBuf>,
    busybox: &'a Path,
    loaded: Vec<Module>,
}

impl Loader<'_> {
    /// Adds a module behind those it depends on. Dependencies have no cycles.
    fn add(&mut self, name: &str) -> Result<()> {
        let name = name.replace('-', "_");
        let known = self.loaded.iter().any(|module| module.name == name);
        if known || self.builtin.contains(&name) {
            return Ok(());
        }
        let file = self.files.get(&name);
        let file = file.with_context(|| format!("this kernel has no module {name}"))?;
        let object = self.read(file)?;
        for dependency in dependencies(&object) {
            self.add(&dependency)?;
        }
        self.loaded.push(Module { name, object });
        Ok(())
    }

    fn read(&self, file: &Path) -> Result<Vec<u8>> {
        if file.extension().is_some_and(|extension| extension == "ko") {
            return fs::read(file).with_context(|| format!("cannot read {}", file.display()));
        }
        let output = Command::new(self.busybox)
            .args(["xz", "-dc"])
            .arg(file)
            .output()
            .with_context(|| format!("cannot start {}", self.busybox.display()))?;
        ensure!(
            output.status.success(),
            "cannot decompress {}: {}",
            file.display(),
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
        Ok(output.stdout)
    }
}

/// The modules below a directory, by name.
fn find_modules(directory: &Path, files: &mut HashMap<String, PathBuf>) -> Result<()> {
    for path in entries(directory)? {
        if path.is_dir() {
            find_modules(&path, files)?;
        } else if file_name(&path).contains(".ko") {
            files.insert(module_name(file_name(&path)), path);
        }
    }
    Ok(())
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        fs::read_dir(directory)?
            .map(|entry| Ok(entry?.path()))
            .collect()
    };
    read().with_context(|| format!("cannot read {}", directory.display()))
}

fn file_name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

/// The name of the module in a file `a/b/some-name.ko` or `some-name.ko.xz`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or_default();
    let stem = file.split(".ko").next().unwrap_or_default();
    stem.replace('-', "_")
}

/// The modules that an object file says it needs: `depends=a,b` among the strings of its section
/// `.modinfo`.
fn dependencies(object: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = object.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = object[start + KEY.len()..].split(|&byte| byte == 0).next();
    String::from_utf8_lossy(value.unwrap_or_default())
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_named_after_their_files() {
        assert_eq!(
            module_name("kernel/drivers/virtio/virtio_pci.ko"),
            "virtio_pci"
        );
        assert_eq!(module_name("nf-x.ko.xz"), "nf_x");
    }

    #[test]
    fn dependencies_are_those_of_the_module() {
        let needs = |text: &[u8]| dependencies(text);
        assert_eq!(
            needs(b"\x7fELF\0license=GPL\0depends=9pnet,virtio\0name=x\0"),
            ["9pnet", "virtio"]
        );
        assert!(needs(b"\0license=GPL\0depends=\0name=x\0").is_empty());
        assert!(needs(b"no module").is_empty());
    }

    #[test]
    fn modules_are_loaded_behind_those_they_need() {
        let directory = tempfile::tempdir().unwrap();
        let kernel = directory.path().join("lib/modules/6.0/kernel");
        fs::create_dir_all(&kernel).unwrap();
        fs::create_dir(directory.path().join("boot")).unwrap();
        fs::write(directory.path().join("boot/vmlinuz-6.0"), "").unwrap();
        let builtin = kernel.with_file_name("modules.builtin");
        fs::write(builtin, "kernel/core/here.ko\n").unwrap();
        for (file, text) in [
            ("top.ko", "\0depends=mid-a,here,base\0"),
            ("mid-a.ko", "\0depends=base\0"),
            ("base.ko", "\0depends=\0"),
        ] {
            fs::write(kernel.join(file), text).unwrap();
        }
        let found = Kernel::in_directory(directory.path()).unwrap();
        let busybox = Path::new("/nonexistent");
        let modules = found.modules(&["top", "here"], busybox).unwrap();
        let names: Vec<_> = modules.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["base", "mid_a", "top"]);
        let error = found.modules(&["absent"], busybox).unwrap_err();
        assert_eq!(error.to_string(), "this kernel has no module absent");
    }
}
