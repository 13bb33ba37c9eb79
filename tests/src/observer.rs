//! Reads all of the lab's counters at once and turns two readings into rates.
use std::time::Instant;

use anyhow::Result;

use crate::{
    flood::Flood,
    levee::Levee,
    link::{Transmitted, transmitted_here},
    switch::Counters,
    topology::{Lab, UPLINK},
};

/// One reading of everything that counts up.
#[derive(Clone, Debug)]
pub struct Reading {
    at: Instant,
    offered: u64,
    uplink: Transmitted,
    switch: Counters,
    /// levee's drops per reason, from its metrics.
    drops: Vec<(String, f64)>,
}

/// What happened between two readings, per second.
#[derive(Clone, Debug, PartialEq)]
pub struct Rates {
    /// Segments of the flood sent to the host.
    pub offered: f64,
    /// Frames that the host's receive queue had room for.
    pub received: f64,
    /// SYN-ACKs that came back to spoofed sources.
    pub answered: f64,
    /// Drops by reason, largest first, without those that did not occur.
    pub dropped: Vec<(String, f64)>,
}

impl Rates {
    /// Drops for all reasons together.
    #[must_use]
    pub fn dropped_total(&self) -> f64 {
        self.dropped.iter().map(|(_, rate)| rate).sum()
    }
}

/// The reason for frames that the host's receive queue had no room for: the host was too slow.
pub const QUEUE_FULL: &str = "queue_full";

impl Reading {
    /// Takes a reading.
    ///
    /// # Errors
    /// Fails when levee does not answer.
    pub fn take(lab: &mut Lab, flood: Option<&Flood>, levee: Option<&Levee>) -> Result<Self> {
        let drops = match levee {
            Some(levee) => levee
                .metrics()?
                .by_label("levee_drop_packets_total", "reason"),
            None => Vec::new(),
        };
        Ok(Self {
            at: Instant::now(),
            offered: flood.map_or(0, Flood::frames),
            uplink: lab.net.run(|| transmitted_here(UPLINK))?,
            switch: lab.switch.counters()?,
            drops,
        })
    }

    /// The rates since an earlier reading.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Rates {
        let seconds = (self.at - earlier.at).as_secs_f64();
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let offered = rate(self.offered, earlier.offered);
        let lost = rate(self.uplink.dropped, earlier.uplink.dropped);
        let mut dropped = vec![(QUEUE_FULL.to_owned(), lost)];
        for (reason, now) in &self.drops {
            let before = earlier.drops.iter().find(|(name, _)| name == reason);
            let before = before.map_or(0.0, |(_, count)| *count);
            dropped.push((reason.clone(), (now - before) / seconds));
        }
        dropped.retain(|(_, rate)| *rate > 0.0);
        dropped.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        Rates {
            offered,
            received: rate(self.uplink.sent, earlier.uplink.sent),
            answered: rate(
                self.switch.syn_ack + self.switch.syn,
                earlier.switch.syn_ack + earlier.switch.syn,
            ),
            dropped,
        }
    }
}
