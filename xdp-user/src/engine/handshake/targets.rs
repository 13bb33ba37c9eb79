//! Segments from targets.

use xdp_common::{
    splice::index::SideKey,
    wire::tcp::{Flags, Kind},
};

use super::{
    Handshakes,
    agreement::is_less_than_offered,
    attempt::RETRY_MS,
    effects::{Flows as _, Translation, World},
    outcome::{Notice, Outcome},
    received::Received,
    segments,
};
use crate::engine::{Tick, reason::ConnectError};

impl Handshakes {
    /// Judges a segment from a target, as RFC 9293 3.10.7.3 does in SYN-SENT; `false` if nobody
    /// waits for it.
    pub(super) fn target_sent(
        &mut self,
        now: Tick,
        segment: &Received,
        target: u16,
        world: &mut impl World,
    ) -> bool {
        let tuple = &segment.tuple;
        let side = SideKey::target(tuple.dst, tuple.dst_port, target);
        let flow = world.flows().find(side);
        let Some(key) = flow.and_then(|flow| self.queue.key(flow)) else {
            return false;
        };
        let Some(entry) = self.queue.get_mut(key) else {
            return false;
        };
        let has_ack = segment.flags.has(Flags::ACK);
        let acks_syn = has_ack && segment.ack == entry.client.next();
        match segment.kind {
            Kind::SynAck if acks_syn => self.established(now, key, segment, world),
            Kind::Rst if acks_syn => {
                self.attempt_failed(now, key, ConnectError::Refused, world);
            }
            Kind::SynAck | Kind::Ack if !acks_syn => self.mistaken(now, key, segment, world),
            // A RST for something else, or data before the SYN-ACK, which may come yet.
            Kind::Rst | Kind::Ack | Kind::SynAck | Kind::Syn => return false,
        }
        true
    }

    /// The target takes the connection: it is the data path's from here on.
    fn established(&mut self, now: Tick, key: u32, syn_ack: &Received, world: &mut impl World) {
        let Some(entry) = self.queue.remove(key) else {
            return;
        };
        self.timers.clear(key);
        let service = entry.service.id;
        let choice = &entry.attempt.choice;
        let translation = Translation::between(&entry.client, &entry.service, syn_ack);
        // First: what the two say in answer must find the flow open.
        world
            .flows_mut()
            .establish(entry.attempt.flow, &translation);
        let hop = world.hop(choice.target).unwrap_or(syn_ack.hop);
        world.send(&segments::ack(&entry, hop, syn_ack, &translation));
        world.send(&segments::window_update(
            &entry.client,
            syn_ack,
            &translation,
        ));
        if is_less_than_offered(&entry.client, syn_ack) {
            world.notice(service, Notice::OptionMissing);
        }
        world.attempted(service, choice, Ok(()));
        world.ended(service, Outcome::Established, now.since(entry.since));
    }

    /// The target speaks of a connection that it had before with the same addresses and ports. It
    /// is told that there is none; then it may be ready for this one.
    fn mistaken(&mut self, now: Tick, key: u32, segment: &Received, world: &mut impl World) {
        let Some(entry) = self.queue.get_mut(key) else {
            return;
        };
        let hop = world.hop(entry.attempt.choice.target);
        world.send(&segments::target_rebuff(
            entry,
            hop.unwrap_or(segment.hop),
            segment,
        ));
        world.notice(entry.service.id, Notice::WrongAck);
        // Once, lest a target that never forgets is asked at this rate.
        if !std::mem::replace(&mut entry.attempt.mistaken, true) {
            let due = now.after(u64::from(RETRY_MS)).min(entry.attempt.deadline);
            self.timers.set(key, due);
        }
    }
}
