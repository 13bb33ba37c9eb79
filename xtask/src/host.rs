//! Cargo for the host crates.

use std::process::Command;

use anyhow::Result;

use crate::{process, workspace::Workspace};

/// A cargo command on the workspace, with everything set that our directories need.
pub(crate) fn cargo(workspace: &Workspace, subcommand: &str) -> Command {
    let mut command = Command::new(Workspace::cargo());
    command
        .arg(subcommand)
        .current_dir(&workspace.root)
        // Also against a `target-dir` in a configuration file: our paths must be cargo's.
        .env("CARGO_TARGET_DIR", &workspace.target);
    if let Some(dir) = workspace.objects_override() {
        command.env("LEVEE_BPF_DIR", dir);
    }
    command
}

/// Builds `levee` and `levee-lab`. Always both: built alone, each would choose other features for
/// the libraries they share and build them again.
pub(crate) fn build(workspace: &Workspace, debug: bool) -> Result<()> {
    let mut command = cargo(workspace, "build");
    command.args([
        "--package",
        "xdp-user",
        "--package",
        "levee-tests",
        "--bins",
    ]);
    if !debug {
        command.arg("--release");
    }
    process::run(&mut command)
}
