//! What the controller asks of the thread. To look at a million flows takes some milliseconds, in
//! which handshakes would wait: so it is done piece by piece.

use std::mem;

use tokio::sync::oneshot;

use super::{selection::Surroundings, world::Realm};
use crate::{
    engine::{
        handshake::{Handshakes, effects::FlowId},
        reason::CloseReason,
    },
    proxy::info::{Filter, Listing},
};
use xdp_common::splice::flow::{Flow, FlowState, STATE_OPEN};

/// Flows that are looked at before frames have their turn again.
const PIECE: u32 = 1 << 13;

/// A question about flows.
#[derive(Debug)]
pub(super) enum Command {
    /// Which flows there are; at most so many with details.
    List(Filter, usize, oneshot::Sender<Listing>),
    /// Ends flows with a RST to both ends, and tells how many.
    End(Filter, CloseReason, oneshot::Sender<u64>),
}

/// A command that is being carried out.
#[derive(Debug)]
pub(super) struct Job {
    command: Command,
    next: u32,
    /// What was found so far.
    listing: Listing,
}

impl Job {
    pub(super) fn new(command: Command) -> Self {
        Self {
            command,
            next: 1,
            listing: Listing::default(),
        }
    }

    /// Looks at some more flows. Gives itself back as long as there are more.
    pub(super) fn go_on(
        mut self,
        clock_s: u32,
        handshakes: &mut Handshakes,
        realm: &mut Realm,
    ) -> Option<Self> {
        let range = self.next..self.next.saturating_add(PIECE);
        self.next = range.end;
        let (filter, rows_max) = match &self.command {
            Command::List(filter, max, _) => (filter, *max),
            Command::End(filter, ..) => (filter, 0),
        };
        let surroundings = Surroundings {
            clock_s,
            services: &realm.known,
            directory: realm.director.directory(),
        };
        let listing = &mut self.listing;
        let mut selected: Vec<(FlowId, Flow)> = Vec::new();
        realm.table.scan(range, |id, flow| {
            if realm.ending.contains(id) || !surroundings.selects(filter, id, flow) {
                return;
            }
            listing.matched += 1;
            if listing.rows.len() < rows_max {
                listing.rows.push(surroundings.describe(id, flow));
            }
            selected.push((id, *flow));
        });
        if let Command::End(_, reason, _) = self.command {
            for (id, flow) in selected {
                if flow.state == STATE_OPEN {
                    // One that is over has nobody left to be told.
                    let over = matches!(flow.tcp_state(), FlowState::TimeWait | FlowState::Closed);
                    realm.end(id, reason, !over);
                } else {
                    handshakes.abort(realm.now, id, realm);
                }
            }
        }
        if self.next < realm.table.end() {
            return Some(self);
        }
        self.answer();
        None
    }

    /// Whoever asked may have gone; the answer is nobody's then.
    fn answer(mut self) {
        let listing = mem::take(&mut self.listing);
        match self.command {
            Command::List(_, _, answer) => drop(answer.send(listing)),
            Command::End(_, _, answer) => drop(answer.send(listing.matched)),
        }
    }
}
