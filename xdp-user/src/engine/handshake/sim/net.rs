//! A network that loses, doubles, delays and so reorders.

use std::{cmp::Reverse, collections::BinaryHeap};

use slab::Slab;

use super::{levee::To, packet::Packet};
use crate::engine::sim::random::Random;

/// What happens next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// A packet arrives.
    Arrival(To, Packet),
    /// A client connects.
    Start(u32),
    /// An end of a connection has something to do: the client, or one of its servers.
    Alarm(u32, Option<usize>),
    /// The engine has.
    EngineAlarm,
    /// The reaper comes by.
    Reap,
}

/// How good it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conditions {
    /// Packets lost, doubled and held up, each in ten thousand.
    pub(super) lost: u64,
    pub(super) doubled: u64,
    pub(super) held_up: u64,
    /// How long a packet takes, microseconds.
    pub(super) delay_us: (u64, u64),
}

impl Conditions {
    pub(super) const fn is_perfect(&self) -> bool {
        self.lost + self.doubled + self.held_up == 0 && self.delay_us.0 == self.delay_us.1
    }
}

/// How much longer a packet takes that is held up, microseconds.
const HELD_UP_US: u64 = 400_000;

/// How long any packet is on its way at most, from end to end, microseconds.
pub(super) const LIFETIME_US: u64 = 2 * HELD_UP_US + 20_000;

/// How long the engine waits for the data path's handed-over packets at most, microseconds.
const QUEUE_US: u64 = 500;

#[derive(Default)]
pub(super) struct Net {
    /// Time, microseconds, above the order of entry above the place of the event: one number,
    /// which is cheaper to sort by.
    order: BinaryHeap<Reverse<u128>>,
    events: Slab<Event>,
    entered: u32,
    /// Packets sent so far, and the number of one that is lost whatever the conditions are.
    pub(super) sent: u64,
    pub(super) unlucky: Option<u64>,
}

impl Net {
    pub(super) fn at(&mut self, at_us: u64, event: Event) {
        self.entered += 1;
        let place = self.events.insert(event) as u128;
        let key = u128::from(at_us) << 64 | u128::from(self.entered) << 32 | place;
        self.order.push(Reverse(key));
    }

    pub(super) fn next(&mut self) -> Option<(u64, Event)> {
        let Reverse(key) = self.order.pop()?;
        let event = self.events.remove(key as u32 as usize);
        Some(((key >> 64) as u64, event))
    }

    /// Sends a packet; `false` if it is lost.
    pub(super) fn send(
        &mut self,
        now_us: u64,
        conditions: &Conditions,
        random: &mut Random,
        to: To,
        packet: Packet,
    ) -> bool {
        if to == To::Engine {
            let in_us = random.below(QUEUE_US);
            self.at(now_us + in_us, Event::Arrival(to, packet));
            return true;
        }
        let is_unlucky = self.unlucky == Some(self.sent);
        self.sent += 1;
        if is_unlucky || random.below(10_000) < conditions.lost {
            return false;
        }
        let copies = 1 + u64::from(random.below(10_000) < conditions.doubled);
        for _ in 0..copies {
            let (least, most) = conditions.delay_us;
            let mut in_us = least + random.below(most - least + 1);
            if random.below(10_000) < conditions.held_up {
                in_us += random.below(HELD_UP_US);
            }
            self.at(now_us + in_us, Event::Arrival(to, packet));
        }
        true
    }
}
