//! The handshakes of spliced connections, without I/O: segments and time go in; segments, and what
//! becomes of flows, come out through a [`World`].
//!
//! A client has returned its cookie and holds a SYN-ACK with a window of 0: it takes the connection
//! for open, and waits. levee opens the other half with the client's own initial sequence number
//! and options, tries another target where one fails, and when a target has answered, hands the
//! flow over to the data path and opens the client's window. Whatever is lost on the way is asked
//! for again by whom it concerns:
//!
//! | lost | who notices |
//! |---|---|
//! | the client's ACK of the cookie | the client's data, or its probe of the zero window, is as good; to one that is silent the SYN-ACK is sent again ([`answered`]) |
//! | the SYN to the target, or its SYN-ACK | levee sends the SYN again |
//! | the ACK to the target | the target repeats its SYN-ACK; the flow is open then, so it goes to the client, which answers it as every client does whose ACK was lost (RFC 9293 3.10.7.4) |
//! | the window update | the client probes the window; the data path takes the probe to the target, whose answer opens it |
//! | a RST to the client | the client's next segment still holds the cookie: levee tries again, or refuses again |
//! | a RST to a target | the target's next segment finds no connection |
//!
//! A client's FIN or data that comes before a target has answered is not acknowledged, so the client
//! repeats it.
//!
//! A segment of a flow that is open is none of the engine's: it was on its way here when the flow
//! was opened, and is treated as lost.

mod agreement;
pub mod answered;
mod attempt;
mod client;
mod clients;
pub mod effects;
mod half_open;
mod opening;
pub mod outcome;
pub mod outgoing;
pub mod received;
mod segments;
mod targets;

pub use self::{
    attempt::{RETRY_MS, SYN_WAIT_MS},
    opening::SOURCE_PROBES_MAX,
};

use xdp_common::cookie::Key;

use self::{
    effects::{FlowId, Flows as _, World},
    half_open::Queue,
    outcome::Outcome,
    received::Received,
};
use super::{Tick, wheel::Wheel};

/// All handshakes in progress.
#[derive(Debug)]
pub struct Handshakes {
    keys: [Key; 2],
    queue: Queue,
    /// When something has to be sent again, or given up: by key of the queue.
    timers: Wheel,
    /// Room for [`expire`](Self::expire), kept between calls.
    expired: Vec<u32>,
    strays: u64,
}

impl Handshakes {
    /// None yet. `bound` is how many there may be at a time, of all services; `keys` are those
    /// that cookies are made with, by slot.
    #[must_use]
    pub fn new(now: Tick, bound: u32, keys: [Key; 2]) -> Self {
        Self {
            keys,
            queue: Queue::new(bound),
            timers: Wheel::new(now),
            expired: Vec::new(),
            strays: 0,
        }
    }

    /// Changes the keys, as the data path's are changed.
    pub const fn set_keys(&mut self, keys: [Key; 2]) {
        self.keys = keys;
    }

    /// Judges a segment that the data path handed over.
    pub fn receive(&mut self, now: Tick, segment: &Received, world: &mut impl World) {
        let tuple = &segment.tuple;
        let of_interest = if let Some(service) = world.service(tuple.dst, tuple.dst_port) {
            self.client_sent(now, segment, &service, world)
        } else if let Some(target) = world.target(tuple.src, tuple.src_port) {
            self.target_sent(now, segment, target, world)
        } else {
            false
        };
        self.strays += u64::from(!of_interest);
    }

    /// Does what is due at `now`.
    pub fn expire(&mut self, now: Tick, world: &mut impl World) {
        let mut expired = std::mem::take(&mut self.expired);
        while self.timers.advance(now, &mut expired) {}
        for key in expired.drain(..) {
            self.timed_out(now, key, world);
        }
        self.expired = expired;
    }

    /// When [`expire`](Self::expire) has something to do; not later than that.
    #[must_use]
    pub fn next(&self) -> Option<Tick> {
        self.timers.next()
    }

    /// Ends the handshake behind a pending flow, and tells client and target. Returns whether there
    /// was one.
    pub fn abort(&mut self, now: Tick, flow: FlowId, world: &mut impl World) -> bool {
        let Some(key) = self.queue.key(flow) else {
            return false;
        };
        self.end(now, key, Outcome::Aborted, world);
        true
    }

    /// Handshakes of a service in progress.
    #[must_use]
    pub fn depth(&self, service: u16) -> u32 {
        self.queue.depth(service)
    }

    /// How long the oldest handshake of a service has been in progress, milliseconds; 0 when there
    /// is none. Looks at all of them.
    #[must_use]
    pub fn oldest_age_ms(&self, now: Tick, service: u16) -> u64 {
        let oldest = self.queue.oldest(service);
        oldest.map_or(0, |since| now.since(since))
    }

    /// Segments so far that no handshake waited for, or that cannot be of the connection that they
    /// claim to be of.
    #[must_use]
    pub const fn strays(&self) -> u64 {
        self.strays
    }

    /// Forgets a handshake, its flow and its timer.
    fn forget(&mut self, key: u32, world: &mut impl World) -> Option<half_open::HalfOpen> {
        let entry = self.queue.remove(key)?;
        self.timers.clear(key);
        world.flows_mut().close(entry.attempt.flow);
        Some(entry)
    }

    /// Ends a handshake before a target has answered.
    fn end(&mut self, now: Tick, key: u32, outcome: Outcome, world: &mut impl World) {
        let Some(entry) = self.forget(key, world) else {
            return;
        };
        attempt::reset_target(&entry, world);
        // A client that sent a RST, or has begun anew, knows.
        if !matches!(outcome, Outcome::ClientReset | Outcome::Superseded) {
            world.send(&segments::client_reset(&entry.client));
        }
        world.ended(entry.service.id, outcome, now.since(entry.since));
    }
}

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
