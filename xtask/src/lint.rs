//! `cargo xtask lint`

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{bpf, consent::Consent, host, process, toolchain::Toolchain, workspace::Workspace};

/// Checks formatting, and clippy for both targets with warnings as errors. A failed check does not
/// keep the others from being made.
pub(crate) fn run(workspace: &Workspace, consent: &Consent) -> Result<()> {
    for (program, component) in [("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")] {
        if process::find_program(program).is_none() {
            bail!("{program} is missing: {}", how_to_get(component));
        }
    }
    let mut errors = Vec::new();
    let mut check = |name: &str, result: Result<()>| match result {
        Ok(()) => println!("lint: {name}: no complaint"),
        Err(error) => errors.push(format!("\n  {name}: {error:#}")),
    };
    check(
        "format",
        process::run(host::cargo(workspace, "fmt").args(["--all", "--check"])),
    );
    check("clippy, BPF target", bpf_clippy(workspace, consent));
    check("clippy, host", host_clippy(workspace, consent));
    if !errors.is_empty() {
        bail!("{} of 3 checks failed:{}", errors.len(), errors.concat());
    }
    Ok(())
}

fn host_clippy(workspace: &Workspace, consent: &Consent) -> Result<()> {
    // The host crates embed the objects.
    bpf::build(workspace, consent)?;
    process::run(
        host::cargo(workspace, "clippy")
            .args(["--workspace", "--exclude", "xdp-ebpf", "--all-targets"])
            .args(["--", "-D", "warnings"]),
    )
}

/// Clippy belongs to one compiler, so it has to be the one of the toolchain that builds the
/// objects, started directly: `cargo clippy` would look for one in `PATH`.
fn bpf_clippy(workspace: &Workspace, consent: &Consent) -> Result<()> {
    let toolchain = Toolchain::ensure(workspace, consent)?;
    let clippy = toolchain.program("cargo-clippy").with_context(|| {
        format!(
            "{} has no clippy: {}",
            toolchain.origin,
            how_to_get("clippy")
        )
    })?;
    let mut command = Command::new(clippy);
    toolchain.prepare(workspace, &mut command)?;
    command.arg("clippy");
    bpf::configure(workspace, consent, &toolchain, &mut command)?;
    process::run(command.args(["--", "-D", "warnings"]))
}

fn how_to_get(component: &str) -> String {
    format!(
        "with rustup, run `rustup component add {component}`; otherwise install the package of \
         your distribution that has it"
    )
}
