//! Nothing is installed before it is said, and without a yes.

use std::{
    env,
    io::{self, IsTerminal as _, Write as _},
};

use anyhow::{Context as _, Result, bail};

/// Something about to be installed.
pub(crate) struct Install {
    /// Name and version.
    pub(crate) what: String,
    /// Where it goes.
    pub(crate) into: String,
    /// What it is needed for.
    pub(crate) why: String,
    /// The commands that install it, for people who would rather do it themselves.
    pub(crate) commands: Vec<String>,
}

impl Install {
    fn describe(&self) -> String {
        format!(
            "xtask installs {}\n  into: {}\n  why:  {}",
            self.what, self.into, self.why
        )
    }
}

/// Who says yes.
pub(crate) enum Consent {
    /// `--yes` or CI=true.
    Given,
    /// The person at the terminal.
    Ask,
    /// Nobody can be asked.
    Refused,
}

impl Consent {
    /// From `--yes`, the environment and the terminal.
    pub(crate) fn from_environment(yes: bool) -> Self {
        let ci = env::var("CI").is_ok_and(|value| value == "true");
        let terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
        Self::decide(yes || ci, terminal)
    }

    fn decide(given: bool, terminal: bool) -> Self {
        match (given, terminal) {
            (true, _) => Self::Given,
            (false, true) => Self::Ask,
            (false, false) => Self::Refused,
        }
    }

    /// Says what is about to be installed; an error if it must not be.
    pub(crate) fn to(&self, install: &Install) -> Result<()> {
        eprintln!("{}", install.describe());
        let commands = install.commands.join("\n  ");
        match self {
            Self::Given => Ok(()),
            Self::Ask => {
                eprint!("Go on? [y/N] ");
                io::stderr()
                    .flush()
                    .context("cannot write to the terminal")?;
                let mut answer = String::new();
                io::stdin()
                    .read_line(&mut answer)
                    .context("cannot read the answer")?;
                if is_yes(&answer) {
                    return Ok(());
                }
                bail!("not installed. To do it yourself:\n  {commands}");
            }
            Self::Refused => bail!(
                "not installed: there is no terminal to ask on. Pass --yes, set CI=true, or run:\n  \
                 {commands}"
            ),
        }
    }
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        for (answer, expected) in [
            ("y\n", true),
            ("Yes\n", true),
            ("\n", false),
            ("", false),
            ("n\n", false),
        ] {
            assert_eq!(is_yes(answer), expected, "{answer:?}");
        }
    }

    #[test]
    fn without_terminal_and_without_yes_it_refuses_and_names_the_commands() {
        let install = Install {
            what: "thing 1.0".into(),
            into: "target/tools".into(),
            why: "it is needed".into(),
            commands: vec!["get thing".into()],
        };
        assert!(Consent::decide(true, false).to(&install).is_ok());
        let error = Consent::decide(false, false)
            .to(&install)
            .expect_err("must refuse");
        assert!(error.to_string().contains("get thing"), "{error}");
    }
}
