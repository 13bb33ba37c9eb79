//! The eBPF objects.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::{consent::Consent, linker, process, toolchain::Toolchain, workspace::Workspace};

/// The objects, named after the binaries of `xdp-ebpf` they come from.
const OBJECTS: [&str; 2] = ["levee", "lab"];

/// The BPF target of this machine's byte order.
const TARGET: &str = if cfg!(target_endian = "big") {
    "bpfeb-unknown-none"
} else {
    "bpfel-unknown-none"
};

/// Builds the objects and puts them where the host crates' build scripts look.
pub(crate) fn build(workspace: &Workspace, consent: &Consent) -> Result<()> {
    let toolchain = Toolchain::ensure(workspace, consent)?;
    let mut command = toolchain.cargo(workspace)?;
    command.arg("build");
    configure(workspace, consent, &toolchain, &mut command)?;
    process::run(&mut command)
        .with_context(|| format!("with {} ({})", toolchain.origin, toolchain.info.release))?;
    let built = workspace.bpf_target().join(TARGET).join("release");
    let objects = workspace.objects();
    fs::create_dir_all(&objects).with_context(|| format!("cannot create {}", objects.display()))?;
    for name in OBJECTS {
        replace(&built.join(name), &objects.join(format!("{name}.o")))?;
    }
    Ok(())
}

/// Adds what every cargo command for the BPF target needs, after its subcommand.
pub(crate) fn configure(
    workspace: &Workspace,
    consent: &Consent,
    toolchain: &Toolchain,
    command: &mut Command,
) -> Result<()> {
    let linker = linker::ensure(workspace, consent, toolchain.info.llvm_major)?;
    let flags = [
        // The layout of `pt_regs` and the like that aya-ebpf chooses by it.
        format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        // Packet headers lie at any alignment. Without this every field is put together from
        // single bytes; the kernel allows wider reads wherever the machine does.
        "-Clink-arg=--cpu-features=+allows-misaligned-mem-access".into(),
        format!("-Clinker={}", linker.display()),
    ];
    command
        .current_dir(&workspace.root)
        .args(["--release", "--package", "xdp-ebpf", "--target", TARGET])
        .args(["-Z", "build-std=core", "--target-dir"])
        .arg(workspace.bpf_target())
        // The separator cargo defines for flags that may hold spaces.
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    Ok(())
}

/// Copies a file if the content differs: an unchanged time stamp keeps the host crates, which
/// embed the object, from being built again.
fn replace(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    let partial = to.with_extension("partial");
    fs::write(&partial, new).with_context(|| format!("cannot write {}", partial.display()))?;
    fs::rename(&partial, to).with_context(|| format!("cannot replace {}", to.display()))
}
