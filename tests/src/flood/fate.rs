//! Lets the client share the fate of the flood.
//!
//! On a real link the frames of client and flood are mixed, and a receive queue that overflows loses
//! the same share of both. In a lab on few CPUs they are not mixed: client and generator take turns
//! on one CPU, so a frame of the client always comes when the generator pauses and the queue has
//! just been drained; it would get through any overload. So the share of frames that the link lost a
//! moment ago becomes the probability with which the switch loses a frame of the client.
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::{
    link::{Transmitted, transmitted_here},
    switch::{Chance, Direction},
};

/// How often the share is measured.
const INTERVAL: Duration = Duration::from_millis(10);

/// Follows the losses of one interface; when dropped, the client loses nothing any more.
pub(super) struct SharedFate {
    interface: String,
    chance: Chance,
    last: Transmitted,
    next: Instant,
}

impl SharedFate {
    /// Starts on a thread in the interface's namespace.
    pub(super) fn start(interface: &str, chance: Chance) -> Result<Self> {
        Ok(Self {
            interface: interface.to_owned(),
            chance,
            last: transmitted_here(interface)?,
            next: Instant::now() + INTERVAL,
        })
    }

    /// Measures anew when it is time to.
    pub(super) fn update(&mut self) -> Result<()> {
        let now = Instant::now();
        if now < self.next {
            return Ok(());
        }
        self.next = now + INTERVAL;
        let current = transmitted_here(&self.interface)?;
        let share = current.lost_since(&self.last);
        self.last = current;
        self.chance.set(Direction::ToHost, share)
    }
}

impl Drop for SharedFate {
    fn drop(&mut self) {
        // The map outlives this, and writing to a slot that an array has does not fail.
        self.chance.set(Direction::ToHost, 0.0).ok();
    }
}
