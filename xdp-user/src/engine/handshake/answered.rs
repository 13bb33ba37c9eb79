//! SYN-ACKs that are sent again, as a listening socket would (RFC 9293 3.8.1), to clients whose ACK
//! does not come. A client that has something to say repeats it, and needs none of this. One that
//! waits for the server to speak does not, and its ACK is all that tells of it.

use std::collections::{HashMap, VecDeque};

use xdp_common::tuple::Tuple;

use crate::engine::Tick;

/// How long a client's ACK may take before its SYN-ACK is sent again, the first time and the second,
/// milliseconds (RFC 6298 2.1 and 5.5).
pub const WAITS_MS: [u64; 2] = [1_000, 2_000];

/// SYN-ACKs that are waited for at a time. Those of more clients are not sent again.
pub const ANSWERED_MAX: usize = 16_384;

/// The SYN-ACKs that wait for their ACK; `T` is whatever it takes to send one.
#[derive(Debug)]
pub struct Answered<T> {
    /// By the SYN's tuple.
    waiting: HashMap<Tuple, (u32, T)>,
    /// By the number of the wait, in the order of their time; those included that have gone since.
    due: [VecDeque<(Tick, Tuple, u32)>; WAITS_MS.len()],
    /// Tells a SYN-ACK from others of the same client.
    serial: u32,
}

impl<T> Default for Answered<T> {
    fn default() -> Self {
        Self {
            waiting: HashMap::new(),
            due: Default::default(),
            serial: 0,
        }
    }
}

impl<T> Answered<T> {
    /// A SYN was answered; `syn` is its tuple. False if too many are waited for already.
    pub fn enter(&mut self, now: Tick, syn: Tuple, syn_ack: T) -> bool {
        if self.waiting.len() >= ANSWERED_MAX && !self.waiting.contains_key(&syn) {
            return false;
        }
        self.serial = self.serial.wrapping_add(1);
        // Of a SYN that was repeated, the last answer counts.
        self.waiting.insert(syn, (self.serial, syn_ack));
        self.wait(0, now, syn, self.serial);
        true
    }

    /// The client has said something else.
    pub fn heard_of(&mut self, segment: &Tuple) {
        if !self.waiting.is_empty() {
            self.waiting.remove(segment);
        }
    }

    /// Has those sent again whose time it is: the SYN's tuple, and what it takes.
    pub fn expire(&mut self, now: Tick, mut send: impl FnMut(&Tuple, &T)) {
        for number in 0..WAITS_MS.len() {
            while let Some(&(due, syn, serial)) = self.due[number].front() {
                let waiting = self.waiting.get(&syn);
                let waiting = waiting.filter(|(waiting, _)| *waiting == serial);
                if waiting.is_some() && due > now {
                    break;
                }
                if let Some((_, syn_ack)) = waiting {
                    send(&syn, syn_ack);
                    if number + 1 < WAITS_MS.len() {
                        self.wait(number + 1, now, syn, serial);
                    } else {
                        self.waiting.remove(&syn);
                    }
                }
                self.due[number].pop_front();
            }
        }
    }

    /// When [`expire`](Self::expire) has something to do; not later than that.
    #[must_use]
    pub fn next(&self) -> Option<Tick> {
        let fronts = self.due.iter().filter_map(VecDeque::front);
        fronts.map(|(due, ..)| *due).min()
    }

    fn wait(&mut self, number: usize, now: Tick, syn: Tuple, serial: u32) {
        self.due[number].push_back((now.after(WAITS_MS[number]), syn, serial));
    }
}

#[cfg(test)]
mod tests {
    use xdp_common::tuple::Addr;

    use super::*;

    fn syn(number: u32) -> Tuple {
        let [a, b, c, d] = number.to_be_bytes();
        Tuple {
            src: Addr::v4([10 | a, b, c, d]),
            dst: Addr::v4([192, 0, 2, 1]),
            src_port: 4000,
            dst_port: 443,
        }
    }

    /// What is sent up to a time, with the time of each.
    fn sent(answered: &mut Answered<u32>, until_ms: u64) -> Vec<(u64, u32)> {
        let mut sent = Vec::new();
        while let Some(next) = answered.next().filter(|next| next.0 <= until_ms) {
            answered.expire(next, |_, number| sent.push((next.0, *number)));
        }
        sent
    }

    #[test]
    fn a_syn_ack_is_sent_again_twice() {
        let mut answered = Answered::default();
        assert!(answered.enter(Tick(0), syn(1), 1));
        assert!(answered.enter(Tick(500), syn(2), 2));
        assert_eq!(sent(&mut answered, 999), []);
        let all = [(1_000, 1), (1_500, 2), (3_000, 1), (3_500, 2)];
        assert_eq!(sent(&mut answered, 100_000), all);
        assert_eq!(answered.next(), None);
        assert!(answered.waiting.is_empty());
    }

    #[test]
    fn a_client_that_was_heard_of_gets_none() {
        let mut answered = Answered::default();
        assert!(answered.enter(Tick(0), syn(1), 1));
        assert!(answered.enter(Tick(0), syn(2), 2));
        answered.heard_of(&syn(1));
        answered.heard_of(&syn(3));
        assert_eq!(sent(&mut answered, 1_000), [(1_000, 2)]);
        answered.heard_of(&syn(2));
        assert_eq!(sent(&mut answered, 100_000), []);
        assert_eq!(answered.next(), None);
    }

    #[test]
    fn of_a_repeated_syn_the_last_answer_counts() {
        let mut answered = Answered::default();
        assert!(answered.enter(Tick(0), syn(1), 1));
        assert!(answered.enter(Tick(900), syn(1), 2));
        assert_eq!(sent(&mut answered, 2_000), [(1_900, 2)]);
        answered.heard_of(&syn(1));
        assert!(answered.enter(Tick(2_000), syn(1), 3));
        assert_eq!(sent(&mut answered, 10_000), [(3_000, 3), (5_000, 3)]);
        assert_eq!(answered.next(), None);
    }

    #[test]
    fn there_are_so_many_and_no_more() {
        let mut answered = Answered::default();
        for number in 0..ANSWERED_MAX as u32 {
            assert!(answered.enter(Tick(0), syn(number), number));
        }
        assert!(!answered.enter(Tick(1), syn(u32::MAX >> 8), 0));
        // One that is there already is no more than before.
        assert!(answered.enter(Tick(1), syn(0), 0));
        answered.heard_of(&syn(1));
        assert!(answered.enter(Tick(1), syn(u32::MAX >> 8), 0));
        assert_eq!(sent(&mut answered, 100_000).len(), 2 * ANSWERED_MAX);
    }
}
