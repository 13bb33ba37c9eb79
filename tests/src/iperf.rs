//! iperf3: bulk transfers between two namespaces.
use std::{
    fs::{self, File},
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::{netns::Netns, process::Process, relay::listens, scratch};

const START_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// How long a server may take to end after its transfer.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// How much longer than its transfer a client may take before it is killed.
const SLACK_S: u32 = 15;

/// Where a transfer's server is.
#[derive(Clone, Copy, Debug)]
pub struct ServerAt<'a> {
    /// Its namespace.
    pub netns: &'a Netns,
    /// Where it listens.
    pub address: SocketAddr,
}

/// What a client does.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Connections at a time.
    pub streams: u32,
    /// How long it lasts, seconds.
    pub seconds: u32,
    /// Whether the server sends, not the client.
    pub reverse: bool,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transferred {
    /// Bytes that the receiver got.
    pub bytes: u64,
    /// In how much time, seconds.
    pub seconds: f64,
    /// Segments that the sender sent again.
    pub retransmits: u64,
}

impl Transfer {
    /// Runs a client in this namespace, which reaches the server at `target`. The server is one for
    /// this transfer alone: iperf3's refuses whoever comes while it clears up after another.
    ///
    /// # Errors
    /// Quotes client and server when the client fails or takes too long.
    pub fn run(
        self,
        server: ServerAt<'_>,
        client: &Netns,
        target: SocketAddr,
    ) -> Result<Transferred> {
        let directory = scratch::directory()?;
        let log = directory.path().join("iperf3.log");
        let mut process = start(server, &log)?;
        let output = self.command(client, target).output();
        let output = output.context("cannot run iperf3")?;
        let report = String::from_utf8_lossy(&output.stdout);
        let transferred = parse(&report).with_context(|| {
            // Only an addition to the report: without it, that still tells what failed.
            let log = fs::read_to_string(&log).unwrap_or_default();
            format!("{}: {report}\nits server: {log}", output.status)
        })?;
        process.wait(END_TIMEOUT)?;
        Ok(transferred)
    }

    fn command(self, netns: &Netns, target: SocketAddr) -> Command {
        let mut command = netns.command("timeout");
        command
            .arg((self.seconds + SLACK_S).to_string())
            .args(["iperf3", "--json", "--zerocopy"])
            .args(["--connect-timeout", "5000"])
            .args(["--client", &target.ip().to_string()])
            .args(["--port", &target.port().to_string()])
            .args(["--parallel", &self.streams.to_string()])
            .args(["--time", &self.seconds.to_string()]);
        if self.reverse {
            command.arg("--reverse");
        }
        command
    }
}

/// A server for one transfer, when it listens.
fn start(server: ServerAt<'_>, log: &Path) -> Result<Process> {
    let output = File::create(log).context("cannot make a log")?;
    let mut command = server.netns.command("iperf3");
    let (ip, port) = (server.address.ip(), server.address.port());
    command
        .args(["--server", "--one-off"])
        .args(["--bind", &ip.to_string(), "--port", &port.to_string()])
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    let mut process = Process::spawn("iperf3", command)?;
    let deadline = Instant::now() + START_TIMEOUT;
    while !listens(server.netns, server.address)? {
        let ended = process.try_wait()?;
        if ended.is_some() || Instant::now() > deadline {
            let log = fs::read_to_string(log)?;
            bail!("iperf3 does not listen; status {ended:?}: {log}");
        }
        thread::sleep(RETRY_INTERVAL);
    }
    Ok(process)
}

#[derive(Deserialize)]
struct Report {
    error: Option<String>,
    #[serde(default)]
    end: End,
}

#[derive(Deserialize, Default)]
struct End {
    sum_sent: Option<Sum>,
    sum_received: Option<Sum>,
}

#[derive(Deserialize)]
struct Sum {
    bytes: u64,
    seconds: f64,
    #[serde(default)]
    retransmits: u64,
}

fn parse(report: &str) -> Result<Transferred> {
    let report: Report = serde_json::from_str(report).context("not JSON")?;
    if let Some(error) = report.error {
        bail!("{error}");
    }
    let (Some(sent), Some(received)) = (report.end.sum_sent, report.end.sum_received) else {
        bail!("the report has no sums");
    };
    Ok(Transferred {
        bytes: received.bytes,
        seconds: received.seconds,
        retransmits: sent.retransmits,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receiver_counts() {
        let report = r#"{"end":{"sum_sent":{"bytes":12,"seconds":2.0,"retransmits":3},
                                "sum_received":{"bytes":10,"seconds":2.5}}}"#;
        let expected = Transferred {
            bytes: 10,
            seconds: 2.5,
            retransmits: 3,
        };
        assert_eq!(parse(report).unwrap(), expected);
    }

    #[test]
    fn an_error_is_quoted() {
        let error = parse(r#"{"start":{},"error":"unable to connect"}"#).unwrap_err();
        assert!(error.to_string().contains("unable to connect"));
    }
}
