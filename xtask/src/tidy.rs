//! `cargo xtask tidy`: the architecture's invariants, as plain text checks. ARCHITECTURE.md says
//! what they are for.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::workspace::Workspace;

mod manifests;
mod source;
mod verdicts;

use source::Source;

/// A place where an invariant does not hold.
#[derive(Debug, PartialEq, Eq)]
struct Problem {
    path: String,
    /// Counted from 1; 0 for the whole file.
    line: usize,
    message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            line,
            message,
        } = self;
        match line {
            0 => write!(f, "{path}: {message}"),
            _ => write!(f, "{path}:{line}: {message}"),
        }
    }
}

/// Checks the crates' sources and manifests; prints every problem.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let sources = load(&workspace.root, "rs")?;
    let manifests = load(&workspace.root, "toml")?;
    let mut problems = source::check(&sources);
    problems.extend(verdicts::check(&sources));
    problems.extend(manifests::check(&manifests));
    for problem in &problems {
        eprintln!("{problem}");
    }
    if !problems.is_empty() {
        bail!(
            "{} problems in {} files",
            problems.len(),
            sources.len() + manifests.len()
        );
    }
    println!(
        "tidy: {} files, no problem",
        sources.len() + manifests.len()
    );
    Ok(())
}

/// The files with this extension in the crates' directories.
fn load(root: &Path, extension: &str) -> Result<Vec<Source>> {
    let mut files = Vec::new();
    for member in manifests::CRATES {
        collect(&root.join(member), extension, &mut files)?;
    }
    files.sort_unstable();
    let mut sources = Vec::new();
    for file in files {
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let path = file
            .strip_prefix(root)
            .unwrap_or(&file)
            .to_string_lossy()
            .into_owned();
        sources.push(Source { path, text });
    }
    Ok(sources)
}

fn collect(dir: &Path, extension: &str, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot list {}", dir.display()))?
            .path();
        if path.is_dir() {
            collect(&path, extension, files)?;
        } else if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
    Ok(())
}
