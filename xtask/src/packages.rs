//! The programs the lab and the tests use, and the packages that have them.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    consent::{Consent, Install},
    debian,
    os::Os,
    process,
    workspace::Workspace,
};

/// A program and Debian's package of it.
pub(crate) struct Tool {
    /// Its name, or the path of a file that is not in `PATH`, of which one component may be `*`.
    program: &'static str,
    package: &'static str,
    why: &'static str,
    from: From,
}

/// How a package is put to use.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    /// Installed by apt-get.
    Installed,
    /// Unpacked below the target directory: one self-contained program is needed of a package
    /// that would bring a server and its dependencies.
    Unpacked,
}

const fn installed(program: &'static str, package: &'static str, why: &'static str) -> Tool {
    Tool {
        program,
        package,
        why,
        from: From::Installed,
    }
}

/// What the demo and the benchmarks need.
pub(crate) const LAB: &[Tool] = &[
    installed("ip", "iproute2", "network namespaces"),
    installed("ethtool", "ethtool", "checksum offload of the lab's links"),
    installed(
        "nft",
        "nftables",
        "the nft SYNPROXY that levee is compared with",
    ),
    installed("nginx", "nginx-light", "the protected web server"),
    installed("curl", "curl", "the legitimate client"),
    installed(
        "taskset",
        "util-linux",
        "one CPU for the proxy, one for its load",
    ),
    installed(
        "haproxy",
        "haproxy",
        "the HAProxy that levee is compared with",
    ),
    installed(
        "/usr/lib/nginx/modules/ngx_stream_module.so",
        "libnginx-mod-stream",
        "the nginx stream proxy that levee is compared with",
    ),
    installed(
        "iperf3",
        "iperf3",
        "bulk data through splice mode and others",
    ),
];

/// What only the tests need.
const TESTS_ONLY: &[Tool] = &[
    installed("ss", "iproute2", "the options of accepted sockets"),
    installed("python3", "python3", "a server that speaks first"),
    installed("ping", "iputils-ping", "what is not TCP"),
    installed(
        "tshark",
        "tshark",
        "checksums and windows of what was recorded",
    ),
    installed(
        "dumpcap",
        "wireshark-common",
        "recordings of the lab's links",
    ),
    installed(
        "redis-server",
        "redis-server",
        "a database behind the proxy",
    ),
    installed(
        "/usr/lib/postgresql/*/bin/postgres",
        "postgresql",
        "another, with long-lived connections",
    ),
    installed("prlimit", "util-linux", "running out of file descriptors"),
    installed(
        "runuser",
        "util-linux",
        "PostgreSQL, which refuses to run as root",
    ),
    Tool {
        program: "promtool",
        package: "prometheus",
        why: "the check of the metrics page",
        from: From::Unpacked,
    },
    Tool {
        program: "prometheus",
        package: "prometheus",
        why: "the queries of dashboard and alerts",
        from: From::Unpacked,
    },
];

/// Installs without starting or enabling servers: `policy-rc.d` is Debian's switch for the first
/// (left alone where the machine has its own), systemctl for the second.
const INSTALL_SCRIPT: &str = r#"
set -e
guard=/usr/sbin/policy-rc.d
if [ ! -e "$guard" ]; then
    trap 'rm -f "$guard"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$guard"
    chmod 755 "$guard"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -q update
apt-get -q -y install --no-install-recommends "$@"
if [ -d /run/systemd/system ]; then
    for package in "$@"; do
        case $package in
            nginx-light) systemctl disable nginx.service ;;
            haproxy | postgresql | redis-server) systemctl disable "$package.service" ;;
        esac
    done
fi
"#;

/// All that the tests need.
pub(crate) fn tests() -> impl Iterator<Item = &'static Tool> {
    LAB.iter().chain(TESTS_ONLY)
}

/// Installs those of `tools` that are missing.
pub(crate) fn ensure(
    workspace: &Workspace,
    consent: &Consent,
    tools: impl IntoIterator<Item = &'static Tool>,
) -> Result<()> {
    let found = |tool: &Tool| find(workspace, tool).is_some();
    let missing: Vec<_> = tools.into_iter().filter(|tool| !found(tool)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let os = Os::detect();
    if !os.is_debian() {
        bail!(
            "these programs are missing and xtask knows only Debian's packages of them, not those \
             of {}; install them with its package manager:{}",
            os.name,
            describe(&missing)
        );
    }
    let (install, unpack): (Vec<_>, Vec<_>) = missing
        .iter()
        .partition(|tool| tool.from == From::Installed);
    if !install.is_empty() {
        apt_install(consent, &install)?;
    }
    for tool in unpack {
        unpack_one(workspace, consent, tool)?;
    }
    match missing.iter().find(|tool| !found(tool)) {
        None => Ok(()),
        Some(tool) => {
            bail!(
                "{} is still missing after installing {}",
                tool.program,
                tool.package
            )
        }
    }
}

/// `PATH` with the unpacked programs' and the system's directories.
pub(crate) fn search_path(workspace: &Workspace) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let unpacked = tests()
        .filter(|tool| tool.from == From::Unpacked)
        .map(|tool| unpacked_bin(workspace, tool))
        .filter(|dir| dir.is_dir());
    let system = process::SYSTEM_DIRS.iter().map(PathBuf::from);
    env::join_paths(env::split_paths(&path).chain(unpacked).chain(system))
        .context("PATH cannot be extended")
}

fn find(workspace: &Workspace, tool: &Tool) -> Option<PathBuf> {
    if tool.program.starts_with('/') {
        return find_file(tool.program);
    }
    let unpacked = || Some(unpacked_bin(workspace, tool).join(tool.program));
    process::find_program(tool.program).or_else(|| match tool.from {
        From::Installed => None,
        From::Unpacked => unpacked().filter(|file| process::is_executable(file)),
    })
}

/// The file at a path of which one component may be `*`.
fn find_file(pattern: &str) -> Option<PathBuf> {
    let Some((dir, rest)) = pattern.split_once("/*/") else {
        return Some(PathBuf::from(pattern)).filter(|file| file.is_file());
    };
    // Without the directory, the package is not installed.
    let entries = fs::read_dir(dir).ok()?;
    entries
        .filter_map(|entry| Some(entry.ok()?.path().join(rest)))
        .find(|file| file.is_file())
}

fn unpacked_bin(workspace: &Workspace, tool: &Tool) -> PathBuf {
    debian::one_dir(workspace, tool.package).join("usr/bin")
}

fn apt_install(consent: &Consent, tools: &[&Tool]) -> Result<()> {
    let packages = package_names(tools);
    let sudo = if process::is_root()? { "" } else { "sudo " };
    let list = packages.join(" ");
    consent.to(&Install {
        what: format!("the distribution's packages {list}"),
        into: "the system, by apt-get; servers among them are neither started nor enabled".into(),
        why: format!("the lab needs:{}", describe(tools)),
        commands: vec![format!(
            "{sudo}apt-get install --no-install-recommends {list}"
        )],
    })?;
    let mut args: Vec<String> = ["-c", INSTALL_SCRIPT, "install"].map(Into::into).into();
    args.extend(packages.into_iter().map(Into::into));
    let why = "apt-get installs packages";
    process::run(&mut process::as_root(Path::new("/bin/sh"), &args, why)?)
}

fn unpack_one(workspace: &Workspace, consent: &Consent, tool: &Tool) -> Result<()> {
    consent.to(&Install {
        what: format!(
            "{} from the distribution's package {}",
            tool.program, tool.package
        ),
        into: debian::one_dir(workspace, tool.package)
            .display()
            .to_string(),
        why: tool.why.into(),
        commands: vec![format!(
            "sudo apt-get install --no-install-recommends {}",
            tool.package
        )],
    })?;
    debian::unpack_one(workspace, tool.package)
}

/// Each package once, in the order of the table.
fn package_names(tools: &[&Tool]) -> Vec<&'static str> {
    let mut names = Vec::new();
    for tool in tools {
        if !names.contains(&tool.package) {
            names.push(tool.package);
        }
    }
    names
}

fn describe(tools: &[&Tool]) -> String {
    tools
        .iter()
        .map(|t| format!("\n        {} ({}): {}", t.program, t.package, t.why))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_each_missing_package_once() {
        let missing: Vec<_> = tests()
            .filter(|tool| ["ip", "ss", "curl"].contains(&tool.program))
            .collect();
        assert_eq!(package_names(&missing), ["iproute2", "curl"]);
        assert!(describe(&missing).contains("ss (iproute2)"));
    }

    #[test]
    fn finds_files_by_a_pattern() {
        let own = concat!(env!("CARGO_MANIFEST_DIR"), "/src/packages.rs");
        let parent = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("one");
        let pattern = format!("{}/*/src/packages.rs", parent.display());
        assert_eq!(find_file(own), Some(own.into()));
        assert_eq!(find_file(&pattern), Some(own.into()));
        assert_eq!(find_file("/no/such/*/directory"), None);
    }

    #[test]
    fn every_program_is_listed_once() {
        let mut programs: Vec<_> = tests().map(|tool| tool.program).collect();
        programs.sort_unstable();
        let count = programs.len();
        programs.dedup();
        assert_eq!(programs.len(), count);
    }
}
