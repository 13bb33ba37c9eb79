//! The one log, on stderr: the controller's messages and the data path's.

use std::io::{self, IsTerminal as _};

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya_log::EbpfLogger;
use env_logger::{Builder, Env, TimestampPrecision};
use log::{LevelFilter, Log};

/// Starts the log. `level` comes before the environment variable `RUST_LOG`, and that before the
/// default, `info`.
pub fn init(level: Option<LevelFilter>) {
    let mut builder = Builder::from_env(Env::default().default_filter_or("info"));
    if let Some(level) = level {
        builder.filter_level(level);
        // The loader narrates every relocation, thousands of lines that help nobody here.
        for library in ["aya", "aya_obj"] {
            builder.filter_module(library, level.min(LevelFilter::Info));
        }
    }
    builder.format_target(false);
    // journald, like most that take stderr from a service, adds the time itself; a terminal's user
    // knows it to the second.
    builder.format_timestamp(
        io::stderr()
            .is_terminal()
            .then_some(TimestampPrecision::Seconds),
    );
    builder.init();
}

/// The data path's messages.
pub struct DatapathMessages(EbpfLogger<&'static dyn Log>);

impl DatapathMessages {
    /// Takes them out of a loaded object, before its programs run.
    ///
    /// # Errors
    /// Fails when the object has none, or the kernel refuses.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self> {
        let logger = EbpfLogger::init(ebpf).context("cannot read the data path's messages")?;
        Ok(Self(logger))
    }

    /// Writes what came since the last call to the log. The data path limits how many there are.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}
