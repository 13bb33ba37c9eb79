//! The compiler for the eBPF objects.
//!
//! The BPF target has no precompiled `core`, so its source is compiled too (`-Z build-std`). That
//! needs the source (rust-src) and an unstable flag, not a nightly compiler: `RUSTC_BOOTSTRAP=1`
//! opens the flag on any release. So the compiler that builds the rest of the workspace builds
//! the objects as well where it can: one version to install, to report bugs against and to lint
//! with, and no nightly that breaks overnight.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    consent::Consent,
    debian, linker,
    os::Os,
    process,
    rustc::{RustcInfo, Version},
    rustup::{self, Rustup},
    workspace::Workspace,
};

/// A file of rust-src that the build needs, below the sysroot.
const CORE_SOURCE: &str = "lib/rustlib/src/rust/library/core/src/lib.rs";

/// A Rust that can build the eBPF objects.
pub(crate) struct Toolchain {
    /// Where it comes from, for people.
    pub(crate) origin: String,
    pub(crate) info: RustcInfo,
    sysroot: PathBuf,
    /// What its programs need in `LD_LIBRARY_PATH`.
    library_path: Option<PathBuf>,
    /// Its LLVM, which bpf-linker loads.
    llvm: PathBuf,
}

/// What may be installed, in this order, when nothing usable is found.
enum Remedy {
    RustSrc(Rustup),
    PinnedToolchain(Rustup),
    Debian,
}

impl Toolchain {
    /// Finds one, or installs what is missing.
    ///
    /// Everything present is looked at before anything is installed; that takes a few processes
    /// and no network, so the answer is not kept in a file that could be wrong tomorrow.
    pub(crate) fn ensure(workspace: &Workspace, consent: &Consent) -> Result<Self> {
        let mut reasons = Vec::new();
        if let Some(found) = Self::find(workspace, &mut reasons) {
            return Ok(found);
        }
        let os = Os::detect();
        for remedy in Self::remedies(&os) {
            let applied = match &remedy {
                Remedy::RustSrc(rustup) => rustup.add_rust_src(consent),
                Remedy::PinnedToolchain(rustup) => rustup.install_pinned(consent),
                Remedy::Debian => debian::unpack_rust(workspace, consent),
            };
            match applied {
                Ok(()) => {
                    if let Some(found) = Self::find(workspace, &mut reasons) {
                        return Ok(found);
                    }
                }
                // Whoever cannot be asked about the first remedy cannot be about the next.
                Err(error) if matches!(consent, Consent::Refused) => return Err(error),
                Err(error) => reasons.push(format!("{error:#}")),
            }
        }
        bail!("{}", advice(&os, &reasons))
    }

    fn remedies(os: &Os) -> Vec<Remedy> {
        let mut remedies = Vec::new();
        if let Some(rustup) = Rustup::find() {
            remedies.push(Remedy::RustSrc(rustup.clone()));
            remedies.push(Remedy::PinnedToolchain(rustup));
        }
        if os.is_debian() {
            remedies.push(Remedy::Debian);
        }
        remedies
    }

    /// The first usable one on this machine; why the others are not goes to `reasons`.
    fn find(workspace: &Workspace, reasons: &mut Vec<String>) -> Option<Self> {
        reasons.clear();
        let mut candidates = Vec::new();
        match active_sysroot() {
            Ok(sysroot) => candidates.push(("the active Rust".to_owned(), sysroot, None)),
            Err(error) => reasons.push(format!("the active Rust: {error:#}")),
        }
        if let Some(rustup) = Rustup::find() {
            match rustup.toolchains() {
                Ok(list) => candidates.extend(
                    list.into_iter()
                        .map(|(name, path)| (format!("rustup's toolchain {name}"), path, None)),
                ),
                Err(error) => reasons.push(format!("rustup: {error:#}")),
            }
        }
        if Path::new("/usr/bin/rustc").exists() {
            candidates.push(("the system's Rust".to_owned(), PathBuf::from("/usr"), None));
        }
        if let Some(unpacked) = debian::unpacked_rust(workspace) {
            let origin = "the Rust unpacked from Debian packages".to_owned();
            candidates.push((origin, unpacked.sysroot, Some(unpacked.library_path)));
        }
        let mut seen = Vec::new();
        for (origin, sysroot, library_path) in candidates {
            // Two names of one directory are common: `stable` and the version it points to.
            let real = fs::canonicalize(&sysroot).unwrap_or_else(|_| sysroot.clone());
            if seen.contains(&real) {
                continue;
            }
            seen.push(real);
            match Self::inspect(&origin, &sysroot, library_path) {
                Ok(toolchain) => return Some(toolchain),
                Err(reason) => reasons.push(format!("{origin} ({}): {reason}", sysroot.display())),
            }
        }
        None
    }

    fn inspect(
        origin: &str,
        sysroot: &Path,
        library_path: Option<PathBuf>,
    ) -> Result<Self, String> {
        if !sysroot.join(CORE_SOURCE).exists() {
            return Err(format!(
                "its library source (rust-src) is missing: no {CORE_SOURCE}"
            ));
        }
        let rustc = sysroot.join("bin/rustc");
        let info = RustcInfo::ask(&rustc, library_path.as_deref()).map_err(|e| format!("{e:#}"))?;
        let minimum = Version::minimum();
        if info.version < minimum {
            return Err(format!("it is {}, and levee needs {minimum}", info.release));
        }
        linker::check_llvm(info.llvm_major)?;
        let llvm =
            shared_llvm(&rustc, library_path.as_deref()).map_err(|error| format!("{error:#}"))?;
        let (origin, sysroot) = (origin.to_owned(), sysroot.to_owned());
        Ok(Self {
            origin,
            info,
            sysroot,
            library_path,
            llvm,
        })
    }

    /// A program of this toolchain, if it has it.
    pub(crate) fn program(&self, name: &str) -> Option<PathBuf> {
        Some(self.sysroot.join("bin").join(name)).filter(|path| process::is_executable(path))
    }

    /// A command that runs this toolchain's cargo, or the caller's where it has none.
    pub(crate) fn cargo(&self, workspace: &Workspace) -> Result<Command> {
        let cargo = self.program("cargo").unwrap_or_else(Workspace::cargo);
        let mut command = Command::new(&cargo);
        self.prepare(workspace, &mut command)?;
        Ok(command)
    }

    /// Makes `command` and what it starts use this compiler, its unstable flags and its LLVM.
    pub(crate) fn prepare(&self, workspace: &Workspace, command: &mut Command) -> Result<()> {
        let mut library_path = vec![self.llvm_only_dir(workspace)?];
        library_path.extend(self.library_path.clone());
        let inherited = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        library_path.extend(env::split_paths(&inherited));
        command
            .env(
                "CARGO",
                self.program("cargo").unwrap_or_else(Workspace::cargo),
            )
            .env("RUSTC", self.sysroot.join("bin/rustc"))
            .env("RUSTC_BOOTSTRAP", "1")
            .env("LD_LIBRARY_PATH", env::join_paths(library_path)?)
            .env_remove("RUSTUP_TOOLCHAIN");
        Ok(())
    }

    /// A directory that holds a link to this toolchain's LLVM and nothing else. bpf-linker loads
    /// the first LLVM it finds in `LD_LIBRARY_PATH`, and a system's library directory may hold
    /// several.
    fn llvm_only_dir(&self, workspace: &Workspace) -> Result<PathBuf> {
        let dir = workspace.tools().join("llvm").join(&self.info.release);
        let link = dir.join(
            self.llvm
                .file_name()
                .context("LLVM's path ends in a file name")?,
        );
        if fs::read_link(&link).is_ok_and(|target| target == self.llvm) {
            return Ok(dir);
        }
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        symlink(&self.llvm, &link).with_context(|| format!("cannot link {}", link.display()))?;
        Ok(dir)
    }
}

/// The sysroot of the rustc that cargo uses for the host crates.
fn active_sysroot() -> Result<PathBuf> {
    let rustc = env::var_os("RUSTC").filter(|rustc| !rustc.is_empty());
    let rustc = rustc.unwrap_or_else(|| OsString::from("rustc"));
    let printed = process::output(Command::new(rustc).args(["--print", "sysroot"]))?;
    Ok(PathBuf::from(printed.trim()))
}

/// The LLVM library that `rustc` loads.
fn shared_llvm(rustc: &Path, library_path: Option<&Path>) -> Result<PathBuf> {
    let mut ldd = Command::new("ldd");
    ldd.arg(rustc).env_remove("LD_LIBRARY_PATH");
    if let Some(path) = library_path {
        ldd.env("LD_LIBRARY_PATH", path);
    }
    let text = process::output(&mut ldd)?;
    parse_ldd(&text).with_context(|| {
        format!(
            "{} loads no shared LLVM, which bpf-linker would have to share",
            rustc.display()
        )
    })
}

fn parse_ldd(text: &str) -> Option<PathBuf> {
    let line = text
        .lines()
        .find(|line| line.trim_start().starts_with("libLLVM"))?;
    let path = line.split_once(" => ")?.1.rsplit_once(" (0x")?.0;
    path.starts_with('/').then(|| PathBuf::from(path))
}

fn advice(os: &Os, reasons: &[String]) -> String {
    let tried: String = reasons
        .iter()
        .map(|reason| format!("\n  - {reason}"))
        .collect();
    let distribution = os
        .rust_src_command()
        .map(|command| format!("\n  or, on {}: {command}", os.name))
        .unwrap_or_default();
    format!(
        "no Rust here can build the eBPF objects:{tried}\n\
         What is needed is rustc {} or newer together with its library source. Install\n  \
         rustup (https://rustup.rs), then: rustup toolchain install {pinned} --profile minimal -c \
         rust-src{distribution}\nand run this again.",
        Version::minimum(),
        pinned = rustup::PINNED,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_llvm_in_what_ldd_says() {
        let text = "\tlibc.so.6 => /lib/libc.so.6 (0x00007f672401e000)\n\
                    \tlibLLVM.so.22.1 => /a dir/libLLVM.so.22.1 (0x00007f671b000000)\n";
        assert_eq!(
            parse_ldd(text),
            Some(PathBuf::from("/a dir/libLLVM.so.22.1"))
        );
        assert_eq!(parse_ldd("\tlibLLVM.so.22.1 => not found\n"), None);
        assert_eq!(parse_ldd("\tstatically linked\n"), None);
    }

    #[test]
    fn the_advice_names_what_was_tried_and_what_to_do() {
        let text = advice(&Os::default(), &["the active Rust: too old".into()]);
        assert!(text.contains("the active Rust: too old"), "{text}");
        assert!(text.contains("rustup toolchain install"), "{text}");
    }
}
