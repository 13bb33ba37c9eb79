//! `cargo xtask guest` and `guest-test`: other kernels, in a virtual machine.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::{
    bpf,
    cli::GuestTestArgs,
    consent::{Consent, Install},
    debian, host,
    os::Os,
    packages, process,
    rustc::RustcInfo,
    test::runner_variable,
    workspace::Workspace,
};

const WHY_ROOT: &str = "A guest uses KVM and sees this machine's files as root sees them";

/// What runs in the newer kernel unless another choice is made: that levee loads and admits, and
/// what other kernels lack.
const DEFAULT_FILTERS: [&str; 2] = ["vlan_devices", "over_ipv4_and_ipv6"];

/// Name of the test of the older kernel.
const OLD_TEST: &str = "a_kernel_that_is_too_old";

/// A package, or what it takes to run it, that a guest is made of.
struct Part {
    directory: &'static str,
    what: &'static str,
    fetch: fn(&Workspace, &Path) -> Result<()>,
}

const PARTS: [Part; 4] = [
    Part {
        directory: "guest-qemu",
        what: "QEMU with the libraries that are not installed (17 MB to fetch, 82 MB unpacked)",
        fetch: |workspace, dir| debian::unpack_closure(workspace, "qemu-system-x86", dir),
    },
    Part {
        directory: "busybox-static",
        what: "busybox-static, the guest's first program (1 MB)",
        fetch: |workspace, _| debian::unpack_one(workspace, "busybox-static"),
    },
    Part {
        directory: "guest-kernel-old",
        what: "Debian 12's kernel, 6.1 (70 MB to fetch, 410 MB unpacked)",
        fetch: |workspace, dir| debian::unpack_kernel(workspace, "bookworm", dir),
    },
    Part {
        directory: "guest-kernel-new",
        what: "Debian 13's kernel, 6.12 (105 MB to fetch, 114 MB unpacked)",
        fetch: |workspace, dir| debian::unpack_kernel(workspace, "trixie", dir),
    },
];

/// `cargo xtask guest`
pub(crate) fn run(workspace: &Workspace, consent: &Consent, args: &[String]) -> Result<()> {
    process::check_root(WHY_ROOT)?;
    packages::ensure(workspace, consent, packages::LAB)?;
    ensure(workspace, consent)?;
    bpf::build(workspace, consent)?;
    host::build(workspace, false)?;
    let mut all = lab_args(workspace)?;
    all.extend_from_slice(args);
    let lab = workspace.release_binary("levee-lab");
    process::replace_by(&mut process::as_root(&lab, &all, WHY_ROOT)?)
}

/// `cargo xtask guest-test`
pub(crate) fn test(workspace: &Workspace, consent: &Consent, args: &GuestTestArgs) -> Result<()> {
    process::check_root(WHY_ROOT)?;
    packages::ensure(workspace, consent, packages::tests())?;
    ensure(workspace, consent)?;
    bpf::build(workspace, consent)?;
    host::build(workspace, false)?;
    println!("Debian 12's kernel: levee must refuse it");
    let old = ["--package", "xdp-user", "--test", "live"];
    let exact = ["--ignored", OLD_TEST];
    run_tests(workspace, args, "old", &old, &exact.map(str::to_owned))?;
    println!("Debian 13's kernel: levee must work with it");
    let new = [
        "--package",
        "levee-tests",
        "--test",
        "e2e",
        "--test",
        "splice",
    ];
    let filters = match (&args.filter[..], args.all) {
        (_, true) => Vec::new(),
        ([], false) => DEFAULT_FILTERS.map(str::to_owned).to_vec(),
        (chosen, false) => chosen.to_vec(),
    };
    run_tests(workspace, args, "new", &new, &filters)
}

/// Has cargo start test binaries in a guest.
fn run_tests(
    workspace: &Workspace,
    args: &GuestTestArgs,
    kernel: &str,
    selection: &[&str],
    test_args: &[String],
) -> Result<()> {
    let mut runner = Vec::new();
    let path = packages::search_path(workspace)?;
    let path = path.to_str().context("PATH is not UTF-8")?;
    if !process::is_root()? {
        println!("{WHY_ROOT}: that needs root, so sudo may ask for your password.");
        runner.extend(["sudo", "-E", "env"].map(str::to_owned));
        runner.push(format!("PATH={path}"));
    }
    runner.push(workspace.release_binary("levee-lab").display().to_string());
    runner.extend(lab_args(workspace)?);
    runner.extend(["--kernel".to_owned(), kernel.to_owned()]);
    runner.extend(["--seconds".to_owned(), args.seconds.to_string()]);
    if args.emulate {
        runner.push("--emulate".to_owned());
    }
    runner.push("--".to_owned());
    if runner.iter().any(|word| word.contains(char::is_whitespace)) {
        bail!("a path holds white space, which cargo's runner cannot pass on: {runner:?}");
    }
    let host = RustcInfo::ask("rustc".as_ref(), None)?.host;
    let mut cargo = host::cargo(workspace, "test");
    cargo
        .args(selection)
        .args(["--", "--nocapture", "--test-threads=1"])
        .args(test_args)
        .env(runner_variable(&host), runner.join(" "))
        .env("LEVEE_BIN", workspace.release_binary("levee"))
        .env("PATH", path);
    process::run(&mut cargo)
}

fn lab_args(workspace: &Workspace) -> Result<Vec<String>> {
    let packages = debian::root(workspace);
    let packages = packages
        .to_str()
        .context("the target directory is not UTF-8")?;
    Ok(["guest", "--packages", packages].map(str::to_owned).into())
}

/// Fetches what is missing.
fn ensure(workspace: &Workspace, consent: &Consent) -> Result<()> {
    let directory = |part: &Part| -> PathBuf { debian::root(workspace).join(part.directory) };
    for part in PARTS {
        let dir = directory(&part);
        if dir.is_dir() {
            continue;
        }
        let os = Os::detect();
        if !os.is_debian() {
            bail!(
                "a guest is made of Debian's packages, which xtask can fetch on Debian only, not \
                 on {}; unpack {} into {}",
                os.name,
                part.what,
                dir.display()
            );
        }
        consent.to(&Install {
            what: part.what.into(),
            into: format!("{} (unpacked, not installed)", dir.display()),
            why: "other kernels are booted in a virtual machine".into(),
            commands: vec!["cargo xtask --yes guest -- true".into()],
        })?;
        (part.fetch)(workspace, &dir)?;
    }
    Ok(())
}
