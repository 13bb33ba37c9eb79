//! Building, and running what was built.

use std::path::Path;

use anyhow::Result;

use crate::{
    bpf,
    cli::{Bench, LoadArgs},
    consent::Consent,
    host, packages, process,
    workspace::Workspace,
};

/// `cargo xtask build`
pub(crate) fn build(workspace: &Workspace, consent: &Consent, debug: bool) -> Result<()> {
    bpf::build(workspace, consent)?;
    host::build(workspace, debug)
}

/// `cargo xtask build-and-load`
pub(crate) fn build_and_load(
    workspace: &Workspace,
    consent: &Consent,
    load: LoadArgs,
) -> Result<()> {
    if load.config.is_none() && load.iface.is_none() {
        println!("Neither --config nor --iface is given: running the demo instead.");
        return demo(workspace, consent, &load.args);
    }
    let why = "levee loads BPF programs and attaches them to a network interface";
    process::check_root(why)?;
    build(workspace, consent, false)?;
    let levee = workspace.release_binary("levee");
    run_as_root(&levee, &run_args(load), why)
}

/// `cargo xtask demo`
pub(crate) fn demo(workspace: &Workspace, consent: &Consent, args: &[String]) -> Result<()> {
    run_lab(workspace, consent, &["demo"], args)
}

/// `cargo xtask bench`
pub(crate) fn bench(
    workspace: &Workspace,
    consent: &Consent,
    kind: Bench,
    args: &[String],
) -> Result<()> {
    run_lab(workspace, consent, &["bench", kind.name()], args)
}

fn run_lab(
    workspace: &Workspace,
    consent: &Consent,
    command: &[&str],
    args: &[String],
) -> Result<()> {
    let why = "The lab makes network namespaces and loads BPF programs in them";
    process::check_root(why)?;
    packages::ensure(workspace, consent, packages::LAB)?;
    build(workspace, consent, false)?;
    let lab = workspace.release_binary("levee-lab");
    let args: Vec<_> = command
        .iter()
        .map(|&word| word.into())
        .chain(args.to_vec())
        .collect();
    let why = "The lab makes network namespaces and loads BPF programs in them";
    run_as_root(&lab, &args, why)
}

fn run_as_root(program: &Path, args: &[String], why: &str) -> Result<()> {
    process::replace_by(&mut process::as_root(program, args, why)?)
}

/// The arguments of `levee` for those of `build-and-load`.
fn run_args(load: LoadArgs) -> Vec<String> {
    let mut args = vec!["run".to_owned()];
    if let Some(config) = load.config {
        args.extend(["--config".to_owned(), config.display().to_string()]);
    }
    if let Some(iface) = load.iface {
        args.extend(["--iface".to_owned(), iface]);
    }
    for service in load.protect {
        args.extend(["--protect".to_owned(), service.to_string()]);
    }
    args.extend(load.args);
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levee_gets_what_build_and_load_was_given() {
        let load = LoadArgs {
            config: None,
            iface: Some("eth1".into()),
            protect: vec![
                "192.0.2.1:80".parse().expect("valid"),
                "[::1]:443".parse().expect("ok"),
            ],
            args: vec!["--generic".into()],
        };
        assert_eq!(
            run_args(load).join(" "),
            "run --iface eth1 --protect 192.0.2.1:80 --protect [::1]:443 --generic"
        );
    }
}
