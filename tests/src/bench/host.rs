//! Where and when something was measured.
use std::{fmt, fs, process::Command};

use anyhow::{Context as _, Result};

/// The machine and the date.
pub(super) struct Host {
    cpu: String,
    kernel: String,
    date: String,
}

impl Host {
    pub(super) fn ask() -> Result<Self> {
        let read =
            |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
        let cpus = read("/proc/cpuinfo")?;
        let model = cpus
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or("unknown CPU", |(_, model)| model);
        let date = Command::new("date")
            .args(["-u", "+%F %R UTC"])
            .output()
            .context("cannot run `date`")?;
        Ok(Self {
            cpu: model.to_owned(),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            date: String::from_utf8_lossy(&date.stdout).trim().to_owned(),
        })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, Linux {}, {}", self.cpu, self.kernel, self.date)
    }
}
