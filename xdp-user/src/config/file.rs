//! Reading the configuration file.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::{ConfigError, Problem, field::refusal};
use crate::regular_file;

/// Length of a configuration file, bytes: 4,096 services with all of their settings take about
/// one megabyte.
const LEN_MAX: u64 = 8 << 20;

/// The file's text.
pub(super) fn read(path: &Path) -> Result<String> {
    let bytes = regular_file::read(path, LEN_MAX)
        .with_context(|| format!("cannot read the configuration file {}", path.display()))?;
    Ok(utf8(bytes).map_err(|problem| ConfigError {
        source_name: path.display().to_string(),
        problems: vec![problem],
    })?)
}

fn utf8(bytes: Vec<u8>) -> Result<String, Problem> {
    String::from_utf8(bytes).map_err(|error| {
        let (valid, rest) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
        let found = format!("the byte 0x{:02x}", rest[0]);
        Problem {
            line: Some(1 + valid.iter().filter(|&&byte| byte == b'\n').count()),
            key: String::new(),
            message: refusal(found, "text in UTF-8"),
        }
    })
}
