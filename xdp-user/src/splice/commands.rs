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
use xdp_common::splice::flow::{Flow, STATE_OPEN};

/// Flows that are looked at before frames have their turn again.
const PIECE: u32 = 1 << 13;

/// A question about flows.
#[derive(Debug)]
pub(super) enum Command {
    /// Which flows there are; at most so many with details.
    List(Filter, usize, oneshot::Sender<Listing>),
    /// How many flows are not over.
    Open(oneshot::Sender<u64>),
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
            Command::List(filter, max, _) => (Some(filter), *max),
            Command::End(filter, ..) => (Some(filter), 0),
            Command::Open(_) => (None, 0),
        };
        let surroundings = Surroundings {
            clock_s,
            services: &realm.known,
            directory: realm.director.directory(),
        };
        let listing = &mut self.listing;
        let mut selected: Vec<(FlowId, Flow)> = Vec::new();
        realm.table.scan(range, |id, flow| {
            let fits = match filter {
                Some(filter) => surroundings.selects(filter, id, flow),
                None => !flow.is_over(),
            };
            if realm.ending.contains(id) || !fits {
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
                    realm.end(id, reason, !flow.is_over());
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
            Command::Open(answer) | Command::End(_, _, answer) => {
                answer.send(listing.matched).ok();
            }
        }
    }
}
