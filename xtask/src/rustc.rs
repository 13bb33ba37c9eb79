//! What a rustc says about itself.

use std::{fmt, path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::process;

/// The workspace's `rust-version`.
const MINIMUM: &str = env!("CARGO_PKG_RUST_VERSION");

/// A Rust release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

impl Version {
    /// The oldest that can build the workspace.
    pub(crate) fn minimum() -> Self {
        Self::parse(MINIMUM).expect("rust-version in Cargo.toml is a version")
    }

    /// From "1.95.0", "1.97.0-nightly", "1.96.0+dfsg1-1" or "1.88".
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit());
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?.parse().ok()?;
        Some(Self { major, minor })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The answer to `rustc -vV`, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RustcInfo {
    /// As printed, for people.
    pub(crate) release: String,
    pub(crate) version: Version,
    /// The target triple it runs on.
    pub(crate) host: String,
    pub(crate) llvm_major: u32,
}

impl RustcInfo {
    /// Asks `rustc`; `library_path` is what it needs in `LD_LIBRARY_PATH`, if anything.
    pub(crate) fn ask(rustc: &Path, library_path: Option<&Path>) -> Result<Self> {
        let mut command = Command::new(rustc);
        command.arg("-vV");
        if let Some(path) = library_path {
            command.env("LD_LIBRARY_PATH", path);
        }
        let text = process::output(&mut command)?;
        Self::parse(&text).with_context(|| {
            format!(
                "{} -vV answers in an unknown form:\n{text}",
                rustc.display()
            )
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let release = field("release: ")?.to_owned();
        Some(Self {
            version: Version::parse(&release)?,
            release,
            host: field("host: ")?.to_owned(),
            llvm_major: field("LLVM version: ")?.split('.').next()?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_verbose_version() {
        let text = "rustc 1.95.0 (59807616e 2026-04-14)\nbinary: rustc\n\
                    commit-hash: 59807616e1fa2540724bfbac14d7976d7e4a3860\n\
                    commit-date: 2026-04-14\nhost: x86_64-unknown-linux-gnu\n\
                    release: 1.95.0\nLLVM version: 22.1.2\n";
        let info = RustcInfo::parse(text).expect("valid");
        assert_eq!(
            info.version,
            Version {
                major: 1,
                minor: 95
            }
        );
        assert_eq!(info.host, "x86_64-unknown-linux-gnu");
        assert_eq!(info.llvm_major, 22);
        assert_eq!(RustcInfo::parse("rustc 1.95.0\n"), None);
    }

    #[test]
    fn parses_and_orders_versions() {
        let parse = |text| Version::parse(text).expect("valid");
        assert_eq!(
            parse("1.97.0-nightly"),
            Version {
                major: 1,
                minor: 97
            }
        );
        assert_eq!(
            parse("1.96.0+dfsg1-1~deb12u2"),
            Version {
                major: 1,
                minor: 96
            }
        );
        assert!(parse("1.9.0") < parse("1.88"));
        assert_eq!(Version::parse("stable"), None);
        assert_eq!(Version::parse("1"), None);
    }

    #[test]
    fn the_workspace_names_a_minimum() {
        assert!(
            Version::minimum()
                >= Version {
                    major: 1,
                    minor: 85
                },
            "edition 2024"
        );
    }
}
