//! rustup, where there is one.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{
    consent::{Consent, Install},
    process,
};

/// A release that is known to build the objects, for machines whose own cannot.
pub(crate) const PINNED: &str = "1.95.0";

/// The rustup in `PATH`.
#[derive(Clone)]
pub(crate) struct Rustup {
    program: PathBuf,
}

impl Rustup {
    pub(crate) fn find() -> Option<Self> {
        process::find_program("rustup").map(|program| Self { program })
    }

    /// The installed toolchains and their directories.
    pub(crate) fn toolchains(&self) -> Result<Vec<(String, PathBuf)>> {
        let text = process::output(&mut self.command(&["toolchain", "list", "-v"]))?;
        Ok(text.lines().filter_map(parse_toolchain).collect())
    }

    /// Adds rust-src to the active toolchain.
    pub(crate) fn add_rust_src(&self, consent: &Consent) -> Result<()> {
        let active = match env::var("RUSTUP_TOOLCHAIN") {
            Ok(name) => name,
            Err(_) => {
                let shown = process::output(&mut self.command(&["show", "active-toolchain"]))?;
                shown
                    .split_whitespace()
                    .next()
                    .unwrap_or("stable")
                    .to_owned()
            }
        };
        self.install(
            consent,
            format!("rust-src, the library source of the Rust toolchain {active}"),
            &["component", "add", "rust-src", "--toolchain", &active],
        )
    }

    /// Installs the pinned toolchain next to the others; the active one stays what it is.
    pub(crate) fn install_pinned(&self, consent: &Consent) -> Result<()> {
        self.install(
            consent,
            format!("the Rust toolchain {PINNED} with its library source"),
            &[
                "toolchain",
                "install",
                PINNED,
                "--profile",
                "minimal",
                "-c",
                "rust-src",
            ],
        )
    }

    fn install(&self, consent: &Consent, what: String, args: &[&str]) -> Result<()> {
        let mut command = self.command(args);
        consent.to(&Install {
            what,
            into: "rustup's directory".into(),
            why: "the eBPF objects are built together with Rust's core library".into(),
            commands: vec![process::show(&command)],
        })?;
        process::run(&mut command)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args);
        command
    }
}

/// From a line of `rustup toolchain list -v`: name, remarks in brackets, path.
fn parse_toolchain(line: &str) -> Option<(String, PathBuf)> {
    let name = line.split_whitespace().next()?;
    let path = &line[line.find('/')?..];
    Some((name.to_owned(), Path::new(path.trim_end()).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_toolchain_list() {
        let line = "stable-x86_64-unknown-linux-gnu (active, default) /home/me/my rust/stable";
        assert_eq!(
            parse_toolchain(line),
            Some((
                "stable-x86_64-unknown-linux-gnu".into(),
                "/home/me/my rust/stable".into()
            ))
        );
        let tab = "nightly-x86_64-unknown-linux-gnu\t/r/nightly";
        assert_eq!(
            parse_toolchain(tab).map(|(_, path)| path),
            Some("/r/nightly".into())
        );
        assert_eq!(parse_toolchain("no installed toolchains"), None);
    }
}
