//! Starting other programs, and root for those that need it.

use std::{
    env,
    ffi::OsStr,
    fs,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Directories of system tools that a user's `PATH` may lack.
pub(crate) const SYSTEM_DIRS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Runs `command` and fails unless it succeeds. Its output goes where ours goes.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", show(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", show(command));
    }
    Ok(())
}

/// Runs `command` and returns its standard output; its standard error goes where ours goes only
/// if it fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", show(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} failed: {}\n{}",
            show(command),
            output.status,
            stderr.trim_end()
        );
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("the output of {} is not UTF-8", show(command)))
}

/// The command as one would type it, without its environment.
pub(crate) fn show(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .map(|word| {
            if word.contains(' ') {
                format!("'{word}'").into()
            } else {
                word
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// The program `name` in `PATH` or a system directory.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SYSTEM_DIRS.iter().map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| is_executable(file))
}

/// Whether `file` is a file that may be executed.
pub(crate) fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0)
}

/// Whether this process is root.
pub(crate) fn is_root() -> Result<bool> {
    let own = fs::metadata("/proc/self").context("cannot read /proc/self, is /proc mounted?")?;
    Ok(own.uid() == 0)
}

/// Fails if this process neither is root nor can become it; for commands that need root in the
/// end, before they start what takes long.
pub(crate) fn check_root(why: &str) -> Result<()> {
    if is_root()? || find_program("sudo").is_some() {
        return Ok(());
    }
    bail!("{why}: that needs root, and there is no sudo here. Run this as root.")
}

/// A command that runs `program` as root: by itself when we are root, with sudo otherwise. Says
/// why root is needed in the second case. Only for programs that are already built: cargo as root
/// would leave files behind that the user cannot replace.
pub(crate) fn as_root(program: &Path, args: &[String], why: &str) -> Result<Command> {
    if is_root()? {
        let mut command = Command::new(program);
        command.args(args);
        return Ok(command);
    }
    check_root(why)?;
    println!("{why}: that needs root, so sudo may ask for your password.");
    let mut command = Command::new("sudo");
    // For log levels and the like; `--` keeps the program's own options from sudo.
    command.args(["--preserve-env=RUST_LOG,RUST_BACKTRACE,NO_COLOR", "--"]);
    command.arg(program).args(args);
    Ok(command)
}

/// Replaces this process by `command`, so that signals reach it directly.
pub(crate) fn replace_by(command: &mut Command) -> Result<()> {
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {}", show(command)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_words_with_spaces_in_quotes() {
        let mut command = Command::new("sudo");
        command.args(["levee", "a b"]);
        assert_eq!(show(&command), "sudo levee 'a b'");
    }

    #[test]
    fn finds_programs() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program-here").is_none());
    }

    #[test]
    fn a_failed_command_says_which_and_why() {
        let error = output(Command::new("sh").args(["-c", "echo no luck >&2; exit 3"]))
            .expect_err("exit 3")
            .to_string();
        assert!(
            error.contains("exit status: 3") && error.contains("no luck"),
            "{error}"
        );
    }
}
