//! Reading the configuration file, whatever it turns out to be: a reload must neither hang nor use
//! up the memory of a levee that is at work.

use std::{
    fs::{FileType, OpenOptions},
    io::Read as _,
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    ConfigError, Problem,
    field::{Judged, refusal},
};

/// Length of a configuration file, bytes: 4,096 services with all of their settings take about
/// one megabyte.
const LEN_MAX: u64 = 8 << 20;

/// The file's text.
pub(super) fn read(path: &Path) -> Result<String> {
    let bytes = bytes(path)
        .with_context(|| format!("cannot read the configuration file {}", path.display()))?;
    Ok(utf8(bytes).map_err(|problem| ConfigError {
        source_name: path.display().to_string(),
        problems: vec![problem],
    })?)
}

fn bytes(path: &Path) -> Result<Vec<u8>> {
    let file = OpenOptions::new()
        .read(true)
        // To open a FIFO without a writer would wait for one.
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open(path)?;
    regular(file.metadata()?.file_type()).map_err(anyhow::Error::msg)?;
    let mut bytes = Vec::new();
    file.take(LEN_MAX + 1).read_to_end(&mut bytes)?;
    ensure!(
        bytes.len() as u64 <= LEN_MAX,
        "found more than {LEN_MAX} bytes, allowed: at most {LEN_MAX}"
    );
    Ok(bytes)
}

fn regular(kind: FileType) -> Judged<()> {
    let found = match kind {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a pipe",
        _ => "a device",
    };
    Err(refusal(found, "a regular file"))
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
