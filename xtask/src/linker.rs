//! bpf-linker, at a pinned version, below the target directory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    consent::{Consent, Install},
    process,
    workspace::Workspace,
};

/// A release of bpf-linker for one LLVM. It has to be the LLVM of the rustc whose bitcode it
/// links, and it uses that rustc's own copy (feature `rust-llvm-*`), so no LLVM is installed.
struct Release {
    llvm_major: u32,
    version: &'static str,
    features: &'static str,
}

/// Later releases link against an LLVM of the system and are left out for that.
const RELEASES: [Release; 3] = [
    Release {
        llvm_major: 20,
        version: "0.10.3",
        features: "llvm-20,rust-llvm-20",
    },
    Release {
        llvm_major: 21,
        version: "0.10.3",
        features: "llvm-21,rust-llvm-21",
    },
    Release {
        llvm_major: 22,
        version: "0.10.3",
        features: "llvm-22,rust-llvm-22",
    },
];

/// Whether there is a bpf-linker for this LLVM; otherwise what there is.
pub(crate) fn check_llvm(llvm_major: u32) -> Result<(), String> {
    match release(llvm_major) {
        Some(_) => Ok(()),
        None => {
            let known: Vec<_> = RELEASES.iter().map(|r| r.llvm_major.to_string()).collect();
            Err(format!(
                "it has LLVM {llvm_major}; bpf-linker is known for {}",
                known.join(", ")
            ))
        }
    }
}

fn release(llvm_major: u32) -> Option<&'static Release> {
    RELEASES
        .iter()
        .find(|release| release.llvm_major == llvm_major)
}

/// The linker's path, after installing it if it is not there yet.
pub(crate) fn ensure(workspace: &Workspace, consent: &Consent, llvm_major: u32) -> Result<PathBuf> {
    let release = release(llvm_major).with_context(|| format!("LLVM {llvm_major} is unknown"))?;
    let root = workspace
        .tools()
        .join(format!("bpf-linker-{}-llvm{llvm_major}", release.version));
    let linker = root.join("bin/bpf-linker");
    if process::is_executable(&linker) {
        return Ok(linker);
    }
    let mut install = install_command(release, &root);
    consent.to(&Install {
        what: format!(
            "bpf-linker {} for LLVM {llvm_major} (about a minute)",
            release.version
        ),
        into: root.display().to_string(),
        why: "it links the eBPF objects".into(),
        commands: vec![process::show(&install)],
    })?;
    process::run(&mut install)?;
    let scratch = scratch(&root);
    fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))?;
    Ok(linker)
}

fn install_command(release: &Release, root: &Path) -> Command {
    let mut command = Command::new(Workspace::cargo());
    command
        .args([
            "install",
            "bpf-linker",
            "--locked",
            "--version",
            release.version,
        ])
        .args([
            "--no-default-features",
            "--features",
            release.features,
            "--root",
        ])
        .arg(root)
        // Not the workspace's directory: cargo would take its lock for the whole build.
        .arg("--target-dir")
        .arg(scratch(root));
    command
}

fn scratch(root: &Path) -> PathBuf {
    root.join("build")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_belong_to_the_llvm() {
        for release in &RELEASES {
            let n = release.llvm_major;
            assert_eq!(release.features, format!("llvm-{n},rust-llvm-{n}"));
            assert_eq!(check_llvm(n), Ok(()));
        }
    }

    #[test]
    fn an_unknown_llvm_is_named_with_the_known_ones() {
        let error = check_llvm(19).expect_err("unknown");
        assert!(
            error.contains("LLVM 19") && error.contains("20, 21, 22"),
            "{error}"
        );
    }

    #[test]
    fn the_command_pins_version_and_features() {
        let release = release(22).expect("known");
        let shown = process::show(&install_command(release, Path::new("/t")));
        assert!(
            shown.contains("--locked --version 0.10.3 --no-default-features"),
            "{shown}"
        );
        assert!(
            shown.contains("--features llvm-22,rust-llvm-22 --root /t"),
            "{shown}"
        );
    }
}
