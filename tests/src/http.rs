//! HTTP/1.1 as far as the lab needs it: one GET on one connection.
use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime::Builder,
    time::{Duration, timeout},
};

use crate::netns::Netns;

/// Longest answer that is read, in bytes.
const RESPONSE_BYTES_MAX: u64 = 16 << 20;

/// Connects, requests `path` and returns status and body.
///
/// # Errors
/// Says which step failed.
pub async fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await.context("connect")?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .context("write")?;
    let mut response = String::new();
    stream
        .take(RESPONSE_BYTES_MAX)
        .read_to_string(&mut response)
        .await
        .context("read")?;
    let (head, body) = response
        .split_once("\r\n\r\n")
        .context("the answer has no end of header")?;
    let status = head
        .split_whitespace()
        .nth(1)
        .and_then(|status| status.parse().ok());
    let Some(status) = status else {
        bail!("no HTTP status in {:?}", head.lines().next());
    };
    Ok((status, body.to_owned()))
}

/// As [`get`], from inside a namespace, blocking, within `limit`.
///
/// # Errors
/// Those of `get`, and the time limit.
pub fn get_in(
    netns: &Netns,
    address: SocketAddr,
    path: &str,
    limit: Duration,
) -> Result<(u16, String)> {
    netns.run(|| {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime
            .block_on(async { timeout(limit, get(address, path)).await })
            .with_context(|| format!("http://{address}{path}: no answer in {limit:?}"))?
            .with_context(|| format!("http://{address}{path}"))
    })
}
