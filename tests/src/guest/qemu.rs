//! QEMU and its command line.
use std::{
    ffi::OsString,
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::{prctl, signal::Signal};

use super::{
    Spec,
    initramfs::{ROOT_TAG, SHARE_TAG},
};

const PROGRAM: &str = "qemu-system-x86_64";
const KVM: &str = "/dev/kvm";
/// Only there where KVM is the kind that works without virtualisation in hardware.
const PVM: &str = "/sys/module/kvm_pvm";

/// How the guest's instructions are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// By the CPU.
    Kvm,
    /// By QEMU, some ten times slower.
    Emulation,
}

impl Accelerator {
    /// Asks whether this machine has it.
    ///
    /// # Errors
    /// Says what is missing.
    pub(super) fn check(self) -> Result<()> {
        match self {
            Self::Emulation => Ok(()),
            Self::Kvm => {
                ensure!(
                    !Path::new(PVM).exists(),
                    "KVM of this machine (kvm-pvm) runs only kernels that were built for it; \
                     `--emulate` runs any, slowly"
                );
                File::options()
                    .read(true)
                    .write(true)
                    .open(KVM)
                    .with_context(|| {
                        format!(
                            "cannot open {KVM}: a guest needs virtualisation (KVM) and the right to \
                             use it; `--emulate` does without, slowly"
                        )
                    })?;
                Ok(())
            }
        }
    }

    fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Emulation => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}

/// The emulator.
#[derive(Clone, Debug)]
pub struct Qemu {
    program: PathBuf,
    /// Where its package was unpacked; `None` if it is installed.
    unpacked: Option<PathBuf>,
}

impl Qemu {
    /// The one that was unpacked into `directory`, or else the one that is installed.
    ///
    /// # Errors
    /// Fails when there is neither.
    pub fn find(directory: &Path) -> Result<Self> {
        let unpacked = directory.join("usr/bin").join(PROGRAM);
        if unpacked.is_file() {
            return Ok(Self {
                program: unpacked,
                unpacked: Some(directory.to_owned()),
            });
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let installed = std::env::split_paths(&path).map(|dir| dir.join(PROGRAM));
        match installed.into_iter().find(|file| file.is_file()) {
            Some(program) => Ok(Self {
                program,
                unpacked: None,
            }),
            None => bail!(
                "no {PROGRAM}, neither in {} nor installed",
                directory.display()
            ),
        }
    }

    pub(super) fn command(
        &self,
        spec: &Spec,
        image: &Path,
        share: &Path,
        console: &Path,
        errors: &Path,
    ) -> Result<Command> {
        let mut command = Command::new(&self.program);
        command
            .args(spec.accelerator.arguments())
            .args(["-smp", &spec.cpus.to_string()])
            .args(["-m", &spec.memory_mib.to_string()])
            .args("-nodefaults -no-user-config -no-reboot -display none".split(' '))
            .args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"])
            .arg("-kernel")
            .arg(&spec.kernel.image)
            .arg("-initrd")
            .arg(image);
        command.arg("-serial").arg(option("file:", console)?);
        share_directory(&mut command, ROOT_TAG, Path::new("/"), ",readonly=on")?;
        share_directory(&mut command, SHARE_TAG, share, "")?;
        if let Some(directory) = &self.unpacked {
            for data in ["usr/share/qemu", "usr/share/seabios"] {
                command.arg("-L").arg(directory.join(data));
            }
            command.env("LD_LIBRARY_PATH", library_path(directory)?);
        }
        let errors = File::create(errors).context("cannot make QEMU's log")?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .process_group(0);
        // SAFETY: between fork and exec only an async-signal-safe system call is made.
        unsafe {
            command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?));
        }
        Ok(command)
    }
}

fn share_directory(command: &mut Command, tag: &str, path: &Path, extra: &str) -> Result<()> {
    let path = option(&format!("local,id={tag},path="), path)?;
    command
        .arg("-fsdev")
        // Files of several file systems are seen as one: their inode numbers must not meet.
        .arg(format!("{path},security_model=none,multidevs=remap{extra}"))
        .arg("-device")
        .arg(format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"));
    Ok(())
}

/// A path as a part of a QEMU option, in which a comma ends it.
fn option(prefix: &str, path: &Path) -> Result<String> {
    let path = path.to_str().context("a path is not UTF-8")?;
    Ok(format!("{prefix}{}", path.replace(',', ",,")))
}

/// The directories of shared libraries in an unpacked package.
fn library_path(directory: &Path) -> Result<OsString> {
    let mut paths = Vec::new();
    for lib in ["lib", "usr/lib"].map(|lib| directory.join(lib)) {
        // The package may have only one of them.
        for entry in fs::read_dir(lib).into_iter().flatten() {
            let path = entry.context("cannot list QEMU's libraries")?.path();
            if path.to_string_lossy().ends_with("-linux-gnu") {
                paths.push(path);
            }
        }
    }
    std::env::join_paths(paths).context("the directory of QEMU's libraries has a colon")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_a_path_does_not_end_it() {
        assert_eq!(option("file:", Path::new("/a,b")).unwrap(), "file:/a,,b");
    }
}
