//! The side of `levee status` and `levee reload`.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, absolute},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use super::{LINE_LEN_MAX, REQUEST_LEN_MAX, Request, Response};
use crate::pins;

/// How long levee may take to answer. A reload waits for the one before it to settle.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Whether a levee runs behind `socket`.
#[must_use]
pub fn answers(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}

/// Asks the levee behind `socket`.
///
/// # Errors
/// Fails when none answers there, saying why that may be; with the error it answers; and when the
/// request is too long to be sent.
pub fn request(socket: &Path, request: Request) -> Result<Response> {
    request_within(socket, request, TIMEOUT)
}

/// As [`request`], for what may take longer.
///
/// # Errors
/// As [`request`].
pub fn request_within(socket: &Path, request: Request, timeout: Duration) -> Result<Response> {
    let mut line = serde_json::to_vec(&request)?;
    line.push(b'\n');
    ensure!(
        line.len() as u64 <= REQUEST_LEN_MAX,
        "found conditions of {} bytes in all, allowed: {REQUEST_LEN_MAX}; no name is as long",
        line.len()
    );
    let stream = UnixStream::connect(socket).map_err(|error| {
        let reason = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => nobody_answers(socket),
            io::ErrorKind::PermissionDenied => "only the user levee runs as may (try sudo)".into(),
            _ => "the system refuses".into(),
        };
        anyhow!(error).context(format!(
            "cannot reach levee at {}: {reason}",
            socket.display()
        ))
    })?;
    let answer = exchange(stream, &line, timeout)
        .with_context(|| format!("no answer from levee at {}", socket.display()))?;
    match answer {
        Response::Error(error) => bail!("{error}"),
        answer => Ok(answer),
    }
}

/// Why nobody answers there.
fn nobody_answers(socket: &Path) -> String {
    let pins = absolute(socket).map(|socket| pins::default_directory(&socket));
    match pins {
        Ok(pins) if pins.exists() => format!(
            "levee does not run, but its data path goes on, pinned at {}: start levee again, or \
             take the data path off with `levee detach`",
            pins.display()
        ),
        _ => {
            "is levee running? If it was given another control socket, name it with --socket".into()
        }
    }
}

fn exchange(mut stream: UnixStream, line: &[u8], timeout: Duration) -> Result<Response> {
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.write_all(line)?;
    let mut answer = String::new();
    let read = BufReader::new(stream.take(LINE_LEN_MAX)).read_line(&mut answer);
    read.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => anyhow!("it said nothing for {} s", timeout.as_secs()),
        _ => anyhow!(error),
    })?;
    ensure!(!answer.is_empty(), "it ended the connection without a word");
    serde_json::from_str(&answer).context("the answer is of another version of levee")
}
