//! Ctrl-C: long-running commands notice it and unwind, which cleans the lab up.
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};

/// How late an interrupt may be noticed.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Whether the user has asked to stop.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<AtomicBool>);

/// The error of whatever an interrupt cut short.
#[derive(Clone, Copy, Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted; the lab has been removed")
    }
}

impl std::error::Error for Interrupted {}

impl Interrupt {
    /// Watches SIGINT, SIGTERM and SIGHUP. A second one ends the process at once; the kernel then
    /// removes what is left of the lab.
    ///
    /// # Errors
    /// Fails when the handlers cannot be installed.
    pub fn install() -> Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // In this order: the first signal finds the flag unset, the second finds it set.
            flag::register_conditional_shutdown(signal, 130, Arc::clone(&interrupted))
                .and_then(|_| flag::register(signal, Arc::clone(&interrupted)))
                .with_context(|| format!("cannot handle signal {signal}"))?;
        }
        Ok(Self(interrupted))
    }

    /// Fails if a signal has come.
    ///
    /// # Errors
    /// [`Interrupted`].
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            return Err(Interrupted.into());
        }
        Ok(())
    }

    /// Sleeps until `deadline`.
    ///
    /// # Errors
    /// [`Interrupted`], soon after a signal.
    pub fn sleep_until(&self, deadline: Instant) -> Result<()> {
        loop {
            self.check()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(POLL_INTERVAL));
        }
    }

    /// Sleeps for `duration`.
    ///
    /// # Errors
    /// [`Interrupted`], soon after a signal.
    pub fn sleep(&self, duration: Duration) -> Result<()> {
        self.sleep_until(Instant::now() + duration)
    }
}
