//! Which distribution this is.

use std::fs;

/// What `/etc/os-release` says, as far as it matters here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Os {
    /// For people, for example "Debian GNU/Linux 12 (bookworm)".
    pub(crate) name: String,
    /// `ID` and `ID_LIKE`.
    ids: Vec<String>,
}

impl Os {
    /// Of this machine. Without the file, a system that is none of those we know.
    pub(crate) fn detect() -> Self {
        let text = ["/etc/os-release", "/usr/lib/os-release"]
            .iter()
            .find_map(|path| fs::read_to_string(path).ok());
        Self::parse(&text.unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
                .map(|value| value.trim().trim_matches(['"', '\'']).to_owned())
        };
        let ids = [field("ID"), field("ID_LIKE")]
            .iter()
            .flatten()
            .flat_map(|ids| ids.split_whitespace())
            .map(str::to_owned)
            .collect();
        let name = field("PRETTY_NAME").or_else(|| field("ID"));
        Self {
            name: name.unwrap_or_else(|| "this system".into()),
            ids,
        }
    }

    /// Debian, Ubuntu or one made of them: the package names of Debian hold.
    pub(crate) fn is_debian(&self) -> bool {
        self.is(&["debian", "ubuntu"])
    }

    /// The command that installs Rust's library source as the distribution packages it.
    pub(crate) fn rust_src_command(&self) -> Option<&'static str> {
        if self.is(&["fedora", "rhel"]) {
            Some("sudo dnf install rust rust-src")
        } else if self.is(&["arch"]) {
            Some("sudo pacman -S rust rust-src")
        } else if self.is(&["alpine"]) {
            Some("sudo apk add rust rust-src")
        } else {
            None
        }
    }

    fn is(&self, names: &[&str]) -> bool {
        self.ids.iter().any(|id| names.contains(&id.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_debian_and_its_children() {
        let debian = Os::parse("PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\n");
        assert!(debian.is_debian());
        assert_eq!(debian.name, "Debian GNU/Linux 12 (bookworm)");
        assert!(Os::parse("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n").is_debian());
    }

    #[test]
    fn names_the_command_of_others() {
        let fedora = Os::parse("NAME='Fedora Linux'\nID=fedora\n");
        assert!(!fedora.is_debian());
        assert_eq!(
            fedora.rust_src_command(),
            Some("sudo dnf install rust rust-src")
        );
        assert_eq!(
            Os::parse("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"").name,
            "rocky"
        );
        assert_eq!(Os::parse("").rust_src_command(), None);
        assert_eq!(Os::parse("").name, "this system");
    }
}
