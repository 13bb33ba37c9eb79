//! Health by the status of an HTTP response.

use std::ops::RangeInclusive;

use anyhow::{Context as _, Result};
use http_body_util::Empty;
use hyper::{
    Request, StatusCode, Uri,
    body::Bytes,
    client::conn::http1,
    header::{CONNECTION, HOST, HeaderValue, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::check::CheckError;
use crate::config::Target;

/// Most bytes of a response's head.
const HEAD_LEN_MAX: usize = 32 << 10;

/// What is asked for, and which statuses are well.
#[derive(Debug)]
pub(super) struct Expectation {
    path: Uri,
    host: Option<HeaderValue>,
    statuses: Vec<RangeInclusive<u16>>,
}

impl Expectation {
    /// # Errors
    /// Fails when `path` or `host` cannot stand in a request.
    pub(super) fn new(
        path: &str,
        host: Option<&str>,
        statuses: &[RangeInclusive<u16>],
    ) -> Result<Self> {
        Ok(Self {
            path: path
                .parse()
                .with_context(|| format!("cannot ask for the path \"{path}\""))?,
            host: host
                .map(|host| {
                    HeaderValue::from_str(host)
                        .with_context(|| format!("cannot ask for the host \"{host}\""))
                })
                .transpose()?,
            statuses: statuses.to_vec(),
        })
    }

    /// Sends the request and waits for the response's head; the body is not read.
    pub(super) async fn check(&self, stream: TcpStream, target: &Target) -> Result<(), CheckError> {
        let request = self.request(target)?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_LEN_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(failure)?;
        let response = sender.send_request(request);
        tokio::pin!(connection, response);
        let response = tokio::select! {
            response = &mut response => response,
            // The server may close before its response is taken from the connection.
            ended = &mut connection => match ended {
                Ok(()) => response.await,
                Err(error) => Err(error),
            },
        };
        self.judge(response.map_err(failure)?.status())
    }

    fn request(&self, target: &Target) -> Result<Request<Empty<Bytes>>, CheckError> {
        let not_done = |error: &dyn std::fmt::Display| CheckError::NotDone(error.to_string());
        let host = match &self.host {
            Some(host) => host.clone(),
            None => HeaderValue::from_str(&target.to_string()).map_err(|error| not_done(&error))?,
        };
        Request::get(self.path.clone())
            .header(HOST, host)
            .header(USER_AGENT, "levee")
            .header(CONNECTION, "close")
            .body(Empty::new())
            .map_err(|error| not_done(&error))
    }

    fn judge(&self, status: StatusCode) -> Result<(), CheckError> {
        let status = status.as_u16();
        if self.statuses.iter().any(|range| range.contains(&status)) {
            return Ok(());
        }
        Err(CheckError::Status(status))
    }
}

fn failure(error: hyper::Error) -> CheckError {
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return CheckError::Closed;
    }
    let io = std::error::Error::source(&error).and_then(|source| source.downcast_ref());
    match io {
        Some(io) => CheckError::from(copy(io)),
        None => CheckError::Http(error.to_string()),
    }
}

/// An I/O error that is only borrowed, as one's own.
fn copy(error: &std::io::Error) -> std::io::Error {
    error
        .raw_os_error()
        .map_or_else(|| error.kind().into(), std::io::Error::from_raw_os_error)
}
