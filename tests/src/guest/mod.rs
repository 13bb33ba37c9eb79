//! Other kernels than this machine's: boots one in QEMU, with this machine's files as its root,
//! read-only, and runs one command there.
//!
//! Only `/tmp`, `/run` and `/dev/shm` can be written, in memory. There is no network but the one
//! the command makes itself. The guest ends when the command does, at its deadline, or with this
//! process.
use std::{
    fs::{self, File},
    io::{Read as _, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{interrupt::Interrupt, process::Process, scratch};

mod initramfs;
mod kernel;
mod options;
mod qemu;

pub use kernel::Kernel;
pub use options::{GuestOptions, VARIABLE};
pub use qemu::{Accelerator, Qemu};

/// What a guest may have at most, so that the machine stays usable.
pub const CPUS_MAX: u32 = 2;
/// See [`CPUS_MAX`].
pub const MEMORY_MIB_MAX: u32 = 6144;
/// See [`CPUS_MAX`].
pub const LIMIT_MAX: Duration = Duration::from_secs(3600);

/// How long after its deadline a guest may take to power itself off before it is killed.
const POWER_OFF_TIME: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Of the guest's kernel log, shown when the guest ends without a result.
const CONSOLE_LINES_MAX: usize = 30;

/// A guest and what it runs.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its kernel.
    pub kernel: Kernel,
    /// The emulator.
    pub qemu: Qemu,
    /// A statically linked busybox: the guest's first program.
    pub busybox: PathBuf,
    /// How its instructions are executed.
    pub accelerator: Accelerator,
    /// Virtual CPUs, 1 to [`CPUS_MAX`].
    pub cpus: u32,
    /// Memory in MiB, at most [`MEMORY_MIB_MAX`].
    pub memory_mib: u32,
    /// From the first instruction to the end of the command, at most [`LIMIT_MAX`].
    pub limit: Duration,
    /// Program and arguments, run in this process's working directory.
    pub command: Vec<String>,
    /// Environment of the command, besides `PATH`.
    pub environment: Vec<(String, String)>,
}

/// Boots the guest, copies what its command writes (both streams) to `out`, and returns the
/// command's exit code.
///
/// # Errors
/// Fails when the guest cannot be started, is interrupted, or ends without a result; then with the
/// end of its kernel's log.
pub fn run(spec: &Spec, interrupt: &Interrupt, out: &mut impl Write) -> Result<u8> {
    ensure!(!spec.command.is_empty(), "no command for the guest");
    ensure!(
        (1..=CPUS_MAX).contains(&spec.cpus)
            && spec.memory_mib <= MEMORY_MIB_MAX
            && spec.limit <= LIMIT_MAX,
        "a guest may have {CPUS_MAX} CPUs, {MEMORY_MIB_MAX} MiB and {LIMIT_MAX:?} at most"
    );
    spec.accelerator.check()?;
    let directory = scratch::directory()?;
    let share = directory.path().join("share");
    fs::create_dir(&share).context("cannot make the directory shared with the guest")?;
    fs::write(share.join("command"), script(spec)?).context("cannot write the guest's command")?;
    let output = share.join("output");
    File::create(&output).context("cannot make the file for the guest's output")?;
    let image = directory.path().join("initramfs");
    let archive = initramfs::build(&spec.kernel, &spec.busybox, spec.limit)?;
    fs::write(&image, archive).context("cannot write the initramfs")?;
    let console = directory.path().join("console");
    let errors = directory.path().join("qemu.log");
    let command = spec.qemu.command(spec, &image, &share, &console, &errors)?;
    let mut guest = Guest {
        process: Process::spawn("qemu-system-x86_64", command)?,
        output: File::open(&output).context("cannot read the guest's output")?,
        errors,
        console,
    };
    guest.follow(spec.limit + POWER_OFF_TIME, interrupt, out)?;
    guest.result(&share.join("status"))
}

struct Guest {
    process: Process,
    output: File,
    errors: PathBuf,
    console: PathBuf,
}

impl Guest {
    /// Copies output until the guest has ended.
    fn follow(
        &mut self,
        limit: Duration,
        interrupt: &Interrupt,
        out: &mut impl Write,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            interrupt.check()?;
            // Asked before the copying: what was written before the end is copied then.
            let ended = self.process.try_wait()?.is_some();
            let mut news = Vec::new();
            self.output
                .read_to_end(&mut news)
                .context("cannot read the guest's output")?;
            out.write_all(&news)
                .and_then(|()| out.flush())
                .context("cannot pass on the guest's output")?;
            if ended {
                return Ok(());
            }
            self.check_machine()?;
            if Instant::now() > deadline {
                bail!("the guest still runs after {limit:?}\n{}", self.report()?);
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// QEMU stops a machine that KVM cannot go on with, but does not end.
    fn check_machine(&self) -> Result<()> {
        let errors = read(&self.errors)?;
        ensure!(
            !errors.contains("KVM internal error"),
            "KVM of this machine cannot run this kernel; `--emulate` runs it without KVM\n{errors}"
        );
        Ok(())
    }

    fn result(&self, status: &Path) -> Result<u8> {
        let text = fs::read_to_string(status).unwrap_or_default();
        match text.trim().parse() {
            Ok(code) => Ok(code),
            Err(_) => bail!(
                "the guest ended without a result (killed by its deadline, or it did not come up)\n{}",
                self.report()?
            ),
        }
    }

    fn report(&self) -> Result<String> {
        let console = read(&self.console)?;
        let lines: Vec<_> = console.lines().collect();
        let end = lines[lines.len().saturating_sub(CONSOLE_LINES_MAX)..].join("\n");
        let errors = read(&self.errors)?;
        Ok(format!("the end of its kernel's log:\n{end}\n{errors}"))
    }
}

/// A file that QEMU writes; bytes of any kind may be in it.
fn read(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The command as a shell script.
fn script(spec: &Spec) -> Result<String> {
    let directory = std::env::current_dir().context("cannot tell the working directory")?;
    let path = std::env::var("PATH").context("PATH is not set or not UTF-8")?;
    let mut text = format!(
        "cd {} || exit 125\n",
        quote(&directory.display().to_string())
    );
    let path = [("PATH".to_owned(), path)];
    for (name, value) in path.iter().chain(&spec.environment) {
        text.push_str(&format!("export {name}={}\n", quote(value)));
    }
    let words: Vec<_> = spec.command.iter().map(|word| quote(word)).collect();
    text.push_str(&format!("exec {}\n", words.join(" ")));
    Ok(text)
}

/// A word that a POSIX shell reads as it is.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn the_shell_reads_quoted_words_as_they_are() {
        for word in ["", "a b", "it's", "$(x) `y` \\ \"z\"", "a\nb"] {
            let output = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", quote(word))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }
}
