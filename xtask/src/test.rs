//! `cargo xtask test`

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{
    bpf, consent::Consent, host, packages, process, rustc::RustcInfo, workspace::Workspace,
};

const WHY_ROOT: &str = "The tests make network namespaces and load BPF programs in them";

/// Builds what the tests embed and start, installs what they call, and runs them.
pub(crate) fn run(
    workspace: &Workspace,
    consent: &Consent,
    filter: Option<String>,
    args: &[String],
) -> Result<()> {
    process::check_root(WHY_ROOT)?;
    packages::ensure(workspace, consent, packages::tests())?;
    bpf::build(workspace, consent)?;
    host::build(workspace, false)?;
    let mut cargo = host::cargo(workspace, "test");
    cargo
        .args(["--workspace", "--exclude", "xdp-ebpf", "--no-fail-fast"])
        .args(filter)
        // cargo builds a package's binaries only for that package's own tests.
        .env("LEVEE_BIN", workspace.release_binary("levee"));
    if !args.is_empty() {
        cargo.arg("--").args(args);
    }
    let path = packages::search_path(workspace)?;
    if !process::is_root()? {
        let path = path.to_str().context("PATH is not UTF-8")?;
        run_as_root(&mut cargo, path)?;
    }
    process::run(cargo.env("PATH", path))
}

/// Has cargo start the test binaries, not itself, with sudo.
fn run_as_root(cargo: &mut Command, path: &str) -> Result<()> {
    println!("{WHY_ROOT}: that needs root, so sudo may ask for your password.");
    let host = RustcInfo::ask("rustc".as_ref(), None)?.host;
    cargo.env(runner_variable(&host), runner(path)?);
    Ok(())
}

/// The variable by which cargo takes a runner for the programs of a target.
pub(crate) fn runner_variable(triple: &str) -> String {
    format!(
        "CARGO_TARGET_{}_RUNNER",
        triple.to_ascii_uppercase().replace(['-', '.'], "_")
    )
}

/// sudo keeps the environment but for `PATH`, which it sets itself.
fn runner(path: &str) -> Result<String> {
    if path.contains(char::is_whitespace) {
        bail!("PATH holds white space, which cargo's runner cannot pass on: {path:?}");
    }
    Ok(format!("sudo -E env PATH={path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_belongs_to_a_target() {
        assert_eq!(
            runner_variable("x86_64-unknown-linux-gnu"),
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER"
        );
    }

    #[test]
    fn a_runner_needs_a_path_without_spaces() {
        assert_eq!(
            runner("/bin:/sbin").expect("valid"),
            "sudo -E env PATH=/bin:/sbin"
        );
        assert!(runner("/my dir/bin").is_err());
    }
}
