//! Packages of Debian and its children, unpacked below the target directory instead of installed.
//!
//! Debian's newer Rust (`rustc-web`, `rustc-1.89` and the like) conflicts with the `rustc` and
//! `rustup` packages a user may have, and the prometheus package starts a server. Unpacked,
//! neither touches the system, and no root is needed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    apt::{self, Apt, Package},
    consent::{Consent, Install},
    linker, process,
    rustc::Version,
    workspace::Workspace,
};

/// The Rust unpacked by [`unpack_rust`].
pub(crate) struct UnpackedRust {
    pub(crate) sysroot: PathBuf,
    /// Where the libraries are that its rustc loads.
    pub(crate) library_path: PathBuf,
}

/// The Rust unpacked earlier, if there is one.
pub(crate) fn unpacked_rust(workspace: &Workspace) -> Option<UnpackedRust> {
    let usr = rust_dir(workspace).join("usr");
    let sysroot = sysroots(&usr)
        .into_iter()
        .find(|dir| dir.join("bin/rustc").exists())?;
    let lib = usr.join("lib");
    let library_path = fs::read_dir(&lib)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|dir| dir.to_string_lossy().ends_with("-linux-gnu"))
        .unwrap_or(lib);
    Some(UnpackedRust {
        sysroot,
        library_path,
    })
}

/// Unpacks the newest Rust the distribution has whose LLVM there is a bpf-linker for.
pub(crate) fn unpack_rust(workspace: &Workspace, consent: &Consent) -> Result<()> {
    let dir = rust_dir(workspace);
    consent.to(&Install {
        what: format!(
            "the distribution's packages of Rust {} or newer with its library source (about \
             140 MB to fetch, 850 MB unpacked)",
            Version::minimum()
        ),
        into: format!("{} (unpacked; your own Rust stays as it is)", dir.display()),
        why: "the eBPF objects are built together with Rust's core library".into(),
        commands: vec!["cargo xtask --yes build".into()],
    })?;
    let apt = Apt::open(workspace)?;
    let packages = choose_rust(&apt)?;
    apt.unpack(&packages, &dir)?;
    repair_source_links(&dir)
}

/// Unpacks one package, without what it depends on, into [`one_dir`].
pub(crate) fn unpack_one(workspace: &Workspace, name: &str) -> Result<()> {
    let apt = Apt::open(workspace)?;
    let version = apt
        .candidate(name)?
        .with_context(|| format!("no package {name} in the distribution's lists"))?;
    apt.unpack(
        &[Package {
            name: name.into(),
            version,
        }],
        &one_dir(workspace, name),
    )
}

/// Unpacks a package and what it depends on and the system lacks into `dir`.
pub(crate) fn unpack_closure(workspace: &Workspace, name: &str, dir: &Path) -> Result<()> {
    let apt = Apt::open(workspace)?;
    let installed = apt::installed()?;
    let mut packages = apt.closure(&[name])?;
    packages.retain(|package| !installed.contains(&package.name));
    apt.unpack(&packages, dir)
}

/// Unpacks the kernel of a Debian release into `dir`.
pub(crate) fn unpack_kernel(workspace: &Workspace, codename: &str, dir: &Path) -> Result<()> {
    const META: &str = "linux-image-amd64";
    let apt = Apt::open_release(workspace, codename)?;
    let mut packages = apt.closure(&[META])?;
    packages.retain(|package| package.name.starts_with("linux-image-") && package.name != META);
    let [_] = packages[..] else {
        bail!("{META} of {codename} does not depend on one kernel: {packages:?}");
    };
    apt.unpack(&packages, dir)
}

/// Where [`unpack_one`] puts a package.
pub(crate) fn one_dir(workspace: &Workspace, name: &str) -> PathBuf {
    root(workspace).join(name)
}

/// The directory of all unpacked packages.
pub(crate) fn root(workspace: &Workspace) -> PathBuf {
    workspace.tools().join("debian")
}

fn rust_dir(workspace: &Workspace) -> PathBuf {
    root(workspace).join("rust")
}

/// Where packages put a Rust below `usr`: `usr` itself, or `usr/lib/rust-1.89`.
fn sysroots(usr: &Path) -> Vec<PathBuf> {
    let versioned = fs::read_dir(usr.join("lib")).into_iter().flatten();
    let versioned = versioned
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|dir| {
            dir.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with("rust-"))
        });
    std::iter::once(usr.to_owned()).chain(versioned).collect()
}

/// Links of the library source that name a place on the system, not in the unpacked tree, are
/// pointed into it.
fn repair_source_links(dir: &Path) -> Result<()> {
    for sysroot in sysroots(&dir.join("usr")) {
        let link = sysroot.join("lib/rustlib/src/rust");
        let Ok(target) = fs::read_link(&link) else {
            continue;
        };
        if let Ok(inside) = target.strip_prefix("/") {
            fs::remove_file(&link).with_context(|| format!("cannot remove {}", link.display()))?;
            std::os::unix::fs::symlink(dir.join(inside), &link)
                .with_context(|| format!("cannot link {}", link.display()))?;
        }
    }
    Ok(())
}

/// The packages to unpack for a usable Rust.
fn choose_rust(apt: &Apt) -> Result<Vec<Package>> {
    let names = process::output(apt.command("apt-cache").args(["pkgnames", "rustc"]))?;
    let mut flavours = Vec::new();
    for name in names.lines().filter(|name| companions(name).is_some()) {
        let version = apt.candidate(name)?;
        if let Some(version) = version.as_deref().and_then(Version::parse) {
            flavours.push((version, name));
        }
    }
    flavours.sort_unstable();
    let mut refused = Vec::new();
    for (version, name) in flavours.into_iter().rev() {
        if version < Version::minimum() {
            refused.push(format!("{name} is {version}"));
            continue;
        }
        match closure_of_rust(apt, name) {
            Ok(packages) => return Ok(packages),
            Err(error) => refused.push(format!("{name} {version}: {error:#}")),
        }
    }
    bail!(
        "the distribution has no package of Rust {} or newer that can be used ({})",
        Version::minimum(),
        refused.join("; ")
    )
}

/// `rustc`, its source, its clippy and what they depend on and the system lacks.
fn closure_of_rust(apt: &Apt, rustc: &str) -> Result<Vec<Package>> {
    let (source, clippy) = companions(rustc).context("not a name of a rustc package")?;
    let mut wanted = vec![rustc, &source];
    if apt.candidate(&clippy)?.is_some() {
        wanted.push(&clippy);
    }
    let all = apt.closure(&wanted)?;
    // Ubuntu links LLVM into its rustc, where bpf-linker cannot get at it.
    let llvm = all.iter().find_map(|package| llvm_major(&package.name));
    linker::check_llvm(llvm.context("its LLVM is no package of its own")?)
        .map_err(anyhow::Error::msg)?;
    let installed = apt::installed()?;
    // Rust's own packages have to match to the letter, so an installed one is no replacement.
    let needed = |p: &Package| p.name.contains("rust") || !installed.contains(&p.name);
    Ok(all.into_iter().filter(needed).collect())
}

/// The names of the source and the clippy package that belong to a rustc package: plain `rustc`,
/// Debian's `rustc-web` for its browsers, Ubuntu's `rustc-1.89`.
fn companions(rustc: &str) -> Option<(String, String)> {
    let flavour = match rustc.strip_prefix("rustc")? {
        "" => String::new(),
        "-web" => "web-".to_owned(),
        versioned => {
            let version = versioned.strip_prefix('-')?;
            if !version.chars().all(|c| c.is_ascii_digit() || c == '.') {
                return None;
            }
            format!("{version}-")
        }
    };
    Some((
        format!("rust-{flavour}src"),
        format!("rust-{flavour}clippy"),
    ))
}

fn llvm_major(package: &str) -> Option<u32> {
    package
        .strip_prefix("libllvm")?
        .split('.')
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_companions_of_a_rustc() {
        let names = |source: &str, clippy: &str| Some((source.to_owned(), clippy.to_owned()));
        assert_eq!(companions("rustc"), names("rust-src", "rust-clippy"));
        assert_eq!(
            companions("rustc-web"),
            names("rust-web-src", "rust-web-clippy")
        );
        assert_eq!(
            companions("rustc-1.89"),
            names("rust-1.89-src", "rust-1.89-clippy")
        );
        assert_eq!(companions("rustc-mozilla"), None);
        assert_eq!(companions("rustc-1.89-doc"), None);
    }

    #[test]
    fn knows_llvm_by_its_package() {
        assert_eq!(llvm_major("libllvm22"), Some(22));
        assert_eq!(llvm_major("libllvm19.1"), Some(19));
        assert_eq!(llvm_major("libc6"), None);
    }
}
