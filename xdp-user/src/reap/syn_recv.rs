//! Half-open connections in the kernel: SYNs that were not answered by a cookie of levee's, as
//! those from loopback and of clients in closing states, and whose handshake is not complete.

use super::first_seen::FirstSeen;
use crate::engine::Tick;

/// Of so many the age is known; further ones are only counted.
const SEEN_MAX: usize = 131_072;

/// Half-open connections of one service at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HalfOpen {
    /// How many.
    pub(super) depth: u64,
    /// How long ago the oldest was first seen, milliseconds.
    pub(super) oldest_ms: u64,
}

/// SYN_RECV entries from sample to sample.
#[derive(Debug)]
pub(super) struct SynRecv {
    seen: FirstSeen,
}

/// One sample: every SYN_RECV entry is [taken](Self::take).
#[derive(Debug)]
pub(super) struct Sample<'s> {
    seen: &'s mut FirstSeen,
    now: Tick,
    services: Vec<HalfOpen>,
}

impl SynRecv {
    pub(super) fn new() -> Self {
        Self {
            seen: FirstSeen::new(SEEN_MAX),
        }
    }

    /// Starts a sample of so many services.
    pub(super) fn sample(&mut self, now: Tick, services: usize) -> Sample<'_> {
        Sample {
            seen: &mut self.seen,
            now,
            services: vec![HalfOpen::default(); services],
        }
    }
}

impl Sample<'_> {
    /// Takes an entry of the service at that position.
    pub(super) fn take(&mut self, cookie: u64, service: usize) {
        let half_open = &mut self.services[service];
        half_open.depth += 1;
        if let Some(first) = self.seen.see(cookie, self.now) {
            half_open.oldest_ms = half_open.oldest_ms.max(self.now.since(first));
        }
    }

    /// What there was, by position of the service.
    pub(super) fn end(self) -> Vec<HalfOpen> {
        self.seen.end_round();
        self.services
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_and_age_are_those_of_each_service() {
        let mut syn_recv = SynRecv::new();
        let mut take = |now, entries: &[(u64, usize)]| {
            let mut sample = syn_recv.sample(Tick(now), 2);
            for &(cookie, service) in entries {
                sample.take(cookie, service);
            }
            let found = sample.end();
            found
                .iter()
                .map(|h| (h.depth, h.oldest_ms))
                .collect::<Vec<_>>()
        };
        assert_eq!(take(0, &[(1, 0)]), [(1, 0), (0, 0)]);
        assert_eq!(take(5000, &[(1, 0), (2, 1), (3, 0)]), [(2, 5000), (1, 0)]);
        assert_eq!(take(6000, &[(3, 0), (2, 1)]), [(1, 1000), (1, 1000)]);
        assert_eq!(take(7000, &[]), [(0, 0), (0, 0)]);
    }
}
