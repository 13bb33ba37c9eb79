//! What an interface carried: recorded by dumpcap, dissected by tshark.
mod window;

use std::{
    fs::{self, File},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;

pub use self::window::out_of_window;
use crate::{netns::Netns, process::Process};

const START_TIMEOUT: Duration = Duration::from_secs(10);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_INTERVAL: Duration = Duration::from_millis(10);
/// What dumpcap has captured reaches it in blocks, the last one after this much.
const FLUSH: Duration = Duration::from_millis(300);
/// Memory for what is not written yet, MiB.
const BUFFER_MIB: &str = "64";
/// A recording ends by itself at this size, kB.
const FILE_KB_MAX: &str = "filesize:400000";

/// A recording in progress; dropping it ends it.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
    log: PathBuf,
}

impl Capture {
    /// Records what an interface of a namespace carries, into files called `name` in `directory`.
    ///
    /// # Errors
    /// Quotes dumpcap when it does not start.
    pub fn start(netns: &Netns, interface: &str, directory: &Path, name: &str) -> Result<Self> {
        let file = directory.join(format!("{name}.pcapng"));
        let log = directory.join(format!("{name}.log"));
        let output = File::create(&log).context("cannot make a log")?;
        let mut command = netns.command("dumpcap");
        command
            .args(["-i", interface, "-B", BUFFER_MIB, "-a", FILE_KB_MAX, "-w"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let mut capture = Self {
            process: Process::spawn("dumpcap", command)?,
            file,
            log,
        };
        let deadline = Instant::now() + START_TIMEOUT;
        while !capture.log()?.contains("File: ") {
            let ended = capture.process.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                bail!("dumpcap does not start; {ended:?}: {}", capture.log()?);
            }
            thread::sleep(RETRY_INTERVAL);
        }
        Ok(capture)
    }

    /// Ends it.
    ///
    /// # Errors
    /// Fails when packets are missing from the recording, or dumpcap does not end.
    pub fn stop(mut self) -> Result<Recording> {
        thread::sleep(FLUSH);
        self.process.signal(Signal::SIGINT)?;
        let status = self.process.wait(STOP_TIMEOUT)?;
        let log = self.log()?;
        ensure!(status.success(), "dumpcap failed: {log}");
        let complete = log.contains("/0 (");
        ensure!(complete, "the recording is not complete: {log}");
        Ok(Recording(self.file))
    }

    fn log(&self) -> Result<String> {
        fs::read_to_string(&self.log).context("cannot read dumpcap's log")
    }
}

/// A finished recording.
#[derive(Debug)]
pub struct Recording(PathBuf);

/// A TCP segment of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Number of its frame, from 1.
    pub frame: u32,
    /// Who sent it.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags, as in the header.
    pub flags: u8,
    /// Window, as in the header.
    pub window: u16,
    /// Bytes of payload.
    pub length: u32,
    /// The window scale option.
    pub scale: Option<u8>,
}

const FIELDS: [&str; 13] = [
    "frame.number",
    "ip.src",
    "ip.dst",
    "ipv6.src",
    "ipv6.dst",
    "tcp.srcport",
    "tcp.dstport",
    "tcp.seq_raw",
    "tcp.ack_raw",
    "tcp.flags",
    "tcp.window_size_value",
    "tcp.len",
    "tcp.options.wscale.shift",
];

impl Recording {
    /// How many frames match a display filter of Wireshark's. All checksums are looked at.
    ///
    /// # Errors
    /// Quotes tshark when it fails.
    pub fn count(&self, filter: &str) -> Result<usize> {
        Ok(self.tshark(filter, &["frame.number"])?.lines().count())
    }

    /// All TCP segments, except those quoted by ICMP.
    ///
    /// # Errors
    /// Quotes tshark when it fails, or the line that is not understood.
    pub fn segments(&self) -> Result<Vec<Segment>> {
        let text = self.tshark("tcp && !icmp && !icmpv6", &FIELDS)?;
        let segments = text.lines();
        segments
            .map(|line| segment(line).with_context(|| format!("unexpected line: {line}")))
            .collect()
    }

    fn tshark(&self, filter: &str, fields: &[&str]) -> Result<String> {
        let mut command = Command::new("tshark");
        command.args(["-n", "-r"]).arg(&self.0);
        for option in ["tcp", "ip", "udp"] {
            command.args(["-o", &format!("{option}.check_checksum:TRUE")]);
        }
        command.args(["-Y", filter, "-T", "fields", "-E", "occurrence=f"]);
        for field in fields {
            command.args(["-e", field]);
        }
        let output = command.output().context("cannot run tshark")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "tshark failed: {errors}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Parses one line of [`FIELDS`].
fn segment(line: &str) -> Option<Segment> {
    let fields: Vec<&str> = line.split('\t').collect();
    let ip = |v4: usize, v6: usize| -> Option<IpAddr> {
        let text = if fields.get(v4)?.is_empty() { v6 } else { v4 };
        fields.get(text)?.parse().ok()
    };
    let port = |at: usize| fields.get(at)?.parse::<u16>().ok();
    let number = |at: usize| fields.get(at)?.parse::<u32>().ok();
    let flags = fields.get(9)?.strip_prefix("0x")?;
    Some(Segment {
        frame: number(0)?,
        from: SocketAddr::new(ip(1, 3)?, port(5)?),
        to: SocketAddr::new(ip(2, 4)?, port(6)?),
        seq: number(7)?,
        ack: number(8)?,
        flags: u16::from_str_radix(flags, 16).ok()? as u8,
        window: u16::try_from(number(10)?).ok()?,
        length: number(11)?,
        scale: fields.get(12)?.parse().ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_tshark() {
        let line = "7\t\t\tfd79::1\tfd79:1::2\t80\t40000\t4294967295\t5\t0x0012\t0\t0\t10";
        let expected = Segment {
            frame: 7,
            from: "[fd79::1]:80".parse().unwrap(),
            to: "[fd79:1::2]:40000".parse().unwrap(),
            seq: u32::MAX,
            ack: 5,
            flags: 0x12,
            window: 0,
            length: 0,
            scale: Some(10),
        };
        assert_eq!(segment(line), Some(expected));
        assert_eq!(segment("7\t1.2.3.4"), None);
    }
}
