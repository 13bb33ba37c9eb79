//! `levee-lab guest`
use std::{
    env, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use super::{Accelerator, CPUS_MAX, Kernel, LIMIT_MAX, MEMORY_MIB_MAX, Qemu, Spec, run};
use crate::interrupt::Interrupt;

/// Set for whatever runs in a guest, to the name of its kernel as in `--kernel`: a test that needs
/// something of that kernel must then not be skipped.
pub const VARIABLE: &str = "LEVEE_GUEST";

/// Variables that the command in the guest inherits.
const INHERITED: [&str; 3] = ["LEVEE_BIN", "RUST_LOG", "RUST_BACKTRACE"];

/// Boot another kernel in a virtual machine and run a command in it, with this machine's files,
/// read-only, and /tmp and /run in memory. `cargo xtask guest` fetches what this needs.
#[derive(Debug, Args)]
pub struct GuestOptions {
    /// Which kernel.
    #[arg(long, value_enum, default_value = "new")]
    kernel: Choice,
    /// Directory with the unpacked packages; by default that of the target directory this program
    /// is in.
    #[arg(long, value_name = "DIR")]
    packages: Option<PathBuf>,
    /// Do without KVM: works everywhere, some ten times slower.
    #[arg(long)]
    emulate: bool,
    /// Memory, MiB.
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(256..=i64::from(MEMORY_MIB_MAX)))]
    memory: u32,
    /// Virtual CPUs.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=i64::from(CPUS_MAX)))]
    cpus: u32,
    /// When the guest ends at the latest, seconds.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=LIMIT_MAX.as_secs()))]
    seconds: u64,
    /// The command, run in this directory.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// The kernels that `cargo xtask` fetches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Choice {
    /// Debian 12's, too old for levee.
    Old,
    /// Debian 13's, with VLAN devices.
    New,
}

impl Choice {
    const fn name(self) -> &'static str {
        match self {
            Self::Old => "old",
            Self::New => "new",
        }
    }
}

impl GuestOptions {
    /// Runs the command; its output goes to standard output. Returns its exit code.
    ///
    /// # Errors
    /// Those of [`run`], and packages that are not there.
    pub fn run(self, interrupt: &Interrupt) -> Result<u8> {
        run(&self.spec()?, interrupt, &mut io::stdout())
    }

    fn spec(self) -> Result<Spec> {
        let packages = self.packages.map_or_else(default_packages, Ok)?;
        if !packages.is_dir() {
            bail!(
                "no packages in {}: `cargo xtask guest -- true` fetches them",
                packages.display()
            );
        }
        let kernel = packages.join(format!("guest-kernel-{}", self.kernel.name()));
        let inherited = INHERITED.iter().filter_map(|&name| {
            let value = env::var(name).ok()?;
            Some((name.to_owned(), value))
        });
        let own = (VARIABLE.to_owned(), self.kernel.name().to_owned());
        Ok(Spec {
            kernel: Kernel::in_directory(&kernel)?,
            qemu: Qemu::find(&packages.join("guest-qemu"))?,
            busybox: packages.join("busybox-static/bin/busybox"),
            accelerator: if self.emulate {
                Accelerator::Emulation
            } else {
                Accelerator::Kvm
            },
            cpus: self.cpus,
            memory_mib: self.memory,
            limit: Duration::from_secs(self.seconds),
            command: self.command,
            environment: inherited.chain([own]).collect(),
        })
    }
}

/// `tools/debian` of the target directory that this program was built into.
fn default_packages() -> Result<PathBuf> {
    let program = env::current_exe().context("cannot tell where this program is")?;
    let target = program.ancestors().nth(2).unwrap_or(Path::new("/"));
    Ok(target.join("tools/debian"))
}
