//! The SYN-ACKs that the data path tells of, for them to be sent again where no ACK comes.

use std::fmt;

use aya::maps::{MapData, RingBuf};
use xdp_common::{abi, tuple::Tuple};
use zerocopy::FromBytes as _;

use super::world::Realm;
use crate::engine::{
    Tick,
    handshake::{answered::Answered, effects::World as _, outcome::Notice, received::Received},
};

/// The data path's ring, and what was read from it.
pub(super) struct Answers {
    ring: RingBuf<MapData>,
    waiting: Answered<abi::Answered>,
}

impl Answers {
    pub(super) fn new(ring: RingBuf<MapData>) -> Self {
        Self {
            ring,
            waiting: Answered::default(),
        }
    }

    /// Reads what the data path tells. To be called between the taking of segments and the look at
    /// them: a client's ACK is told of after the SYN-ACK that it is for.
    pub(super) fn read(&mut self, now: Tick) {
        while let Some(record) = self.ring.next() {
            let Ok((answer, _)) = abi::Answered::read_from_prefix(&record) else {
                continue;
            };
            let frame = answer.frame.get(..answer.len as usize);
            let parsed = frame.map(|frame| Received::parse(frame, answer.ifindex));
            if let Some(Ok(syn_ack)) = parsed {
                self.waiting.enter(now, syn_ack.tuple.reversed(), answer);
            }
        }
    }

    /// A client has said something else than that it wants to connect.
    pub(super) fn heard_of(&mut self, segment: &Tuple) {
        self.waiting.heard_of(segment);
    }

    /// Sends those again whose time it is.
    pub(super) fn expire(&mut self, now: Tick, realm: &mut Realm) {
        self.waiting.expire(now, |syn, answer| {
            // One that is gone is not spoken for.
            if let Some(service) = realm.service(syn.dst, syn.dst_port) {
                realm.notice(service.id, Notice::SynAckRepeated);
                realm.transmit(answer.ifindex, &answer.frame[..answer.len as usize]);
            }
        });
    }

    pub(super) fn next(&self) -> Option<Tick> {
        self.waiting.next()
    }
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers").finish_non_exhaustive()
    }
}
