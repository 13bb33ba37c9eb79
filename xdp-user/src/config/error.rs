//! What is wrong with a configuration, in words an operator can act on.

use std::{error::Error, fmt, ops::Range};

/// Problems that are printed; what comes after them is only counted.
const SHOWN_MAX: usize = 100;

/// One thing wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1; `None` where no line is to blame, as on the command line.
    pub line: Option<usize>,
    /// The key or flag at fault, as the operator writes it.
    pub key: String,
    /// What was found and what is allowed.
    pub message: String,
}

/// Everything wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, or "command line".
    pub source_name: String,
    /// At least one problem, in the order of the file.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, problem) in self.problems.iter().take(SHOWN_MAX).enumerate() {
            if position > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&self.source_name)?;
            if let Some(line) = problem.line {
                write!(f, ":{line}")?;
            }
            if !problem.key.is_empty() {
                write!(f, ": {}", problem.key)?;
            }
            write!(f, ": {}", problem.message)?;
        }
        match self.problems.len().saturating_sub(SHOWN_MAX) {
            0 => Ok(()),
            more => write!(f, "\n{}: {more} more problem(s)", self.source_name),
        }
    }
}

impl Error for ConfigError {}

/// Collects problems while validation goes on, so that the operator sees all of them at once.
#[derive(Debug)]
pub(super) struct Problems<'a> {
    text: &'a str,
    /// Byte offsets, so that a line is found without reading all of the text for every problem.
    newlines: Vec<usize>,
    found: Vec<Problem>,
}

impl<'a> Problems<'a> {
    /// `text` is the file that spans point into; empty for the command line.
    pub(super) fn new(text: &'a str) -> Self {
        let newlines = text.match_indices('\n').map(|(offset, _)| offset);
        Self {
            text,
            newlines: newlines.collect(),
            found: Vec::new(),
        }
    }

    /// Notes a problem at a span of the text.
    pub(super) fn add(&mut self, span: Option<Range<usize>>, key: &str, message: String) {
        let line = span.and_then(|span| self.line(span.start));
        self.found.push(Problem {
            line,
            key: key.into(),
            message,
        });
    }

    /// Whether a problem with a key of the same section, or with the same flag, was noted.
    pub(super) fn concern(&self, key: &str) -> bool {
        let section = |key: &str| key.split('.').next().map(str::to_owned);
        let mut noted = self.found.iter().map(|problem| section(&problem.key));
        noted.any(|noted| noted == section(key))
    }

    /// The line of a byte offset, from 1; `None` without a text.
    pub(super) fn line(&self, offset: usize) -> Option<usize> {
        if self.text.is_empty() {
            return None;
        }
        let offset = offset.min(self.text.len());
        Some(1 + self.newlines.partition_point(|&newline| newline < offset))
    }

    /// The problems as an error, if there are any.
    pub(super) fn finish(self, source_name: &str) -> Result<(), ConfigError> {
        if self.found.is_empty() {
            Ok(())
        } else {
            Err(self.into_error(source_name))
        }
    }

    /// The problems as an error.
    pub(super) fn into_error(mut self, source_name: &str) -> ConfigError {
        self.found
            .sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        ConfigError {
            source_name: source_name.into(),
            problems: self.found,
        }
    }
}
