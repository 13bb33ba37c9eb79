//! `cargo xtask`: build, run, test and measure levee.
//!
//! Everything it needs that the machine lacks it finds or installs itself, below `target/` where
//! that is possible, and only after saying so.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

mod apt;
mod bpf;
mod cli;
mod consent;
mod debian;
mod guest;
mod host;
mod launch;
mod linker;
mod lint;
mod os;
mod packages;
mod process;
mod rustc;
mod rustup;
mod test;
mod tidy;
mod toolchain;
mod workspace;

use cli::{Cli, Command};
use consent::Consent;
use workspace::Workspace;

fn main() -> ExitCode {
    match dispatch(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // Not returned from `main`, which would add a backtrace: the messages say what to do.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: Cli) -> Result<()> {
    let workspace = Workspace::find();
    let consent = Consent::from_environment(cli.yes);
    match cli.command {
        Command::Build { debug } => launch::build(&workspace, &consent, debug),
        Command::BuildAndLoad(args) => launch::build_and_load(&workspace, &consent, args),
        Command::Demo { args } => launch::demo(&workspace, &consent, &args),
        Command::Bench { kind, args } => launch::bench(&workspace, &consent, kind, &args),
        Command::Test { filter, args } => test::run(&workspace, &consent, filter, &args),
        Command::Guest { args } => guest::run(&workspace, &consent, &args),
        Command::GuestTest(args) => guest::test(&workspace, &consent, &args),
        Command::Lint => lint::run(&workspace, &consent),
        Command::Tidy => tidy::run(&workspace),
    }
}
