//! Reading files that an operator named, whatever they turn out to be: that must neither hang nor use
//! up the memory of a levee that is at work.

use std::{
    fs::{FileType, OpenOptions},
    io::Read as _,
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
};

use anyhow::{Result, bail, ensure};

/// The bytes of a file, at most `len_max`.
///
/// # Errors
/// Fails when it cannot be opened or read, is not a regular file, or is longer.
pub fn read(path: &Path, len_max: u64) -> Result<Vec<u8>> {
    let file = OpenOptions::new()
        .read(true)
        // To open a FIFO without a writer would wait for one.
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open(path)?;
    ensure_regular(file.metadata()?.file_type())?;
    let mut bytes = Vec::new();
    file.take(len_max + 1).read_to_end(&mut bytes)?;
    ensure!(
        bytes.len() as u64 <= len_max,
        "found more than {len_max} bytes, allowed: at most {len_max}"
    );
    Ok(bytes)
}

fn ensure_regular(kind: FileType) -> Result<()> {
    let found = match kind {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a pipe",
        _ => "a device",
    };
    bail!("found {found}, allowed: a regular file")
}
