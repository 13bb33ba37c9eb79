//! Which slot of `TARGETS` an address of a backend has.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use xdp_common::splice::flow::TARGETS_MAX;

/// Hands out the slots. An address keeps its slot for as long as connections lead there: the data
/// path finds them by it.
#[derive(Debug)]
pub struct Targets {
    held: BTreeMap<SocketAddr, Held>,
    free: BTreeSet<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    slot: u16,
    /// No service has it any more. New connections were no longer sent there when this was put in
    /// force, so that the number of its connections can only fall since.
    retired: bool,
}

/// The slots for some addresses. Nothing is changed until it is [committed](Targets::commit).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetPlan {
    /// Those that the data path has to know, with their slots.
    pub slots: Vec<(SocketAddr, u16)>,
    /// Addresses for which there is no slot.
    pub left_out: Vec<SocketAddr>,
    held: BTreeMap<SocketAddr, Held>,
}

impl Default for Targets {
    fn default() -> Self {
        Self::adopted([])
    }
}

impl Targets {
    /// With slots that are in use already.
    #[must_use]
    pub fn adopted(known: impl IntoIterator<Item = (SocketAddr, u16)>) -> Self {
        let held = known.into_iter().map(|(address, slot)| {
            let retired = true;
            (address, Held { slot, retired })
        });
        let mut targets = Self {
            held: held.collect(),
            free: BTreeSet::new(),
        };
        targets.free = targets.unheld();
        targets
    }

    /// Chooses slots for the addresses that services have. Those that none has any more keep theirs
    /// as long as `in_use` tells that connections lead there.
    ///
    /// Slots that become free are not given away yet: until the new table is live, and for a moment
    /// after, the data path still reads them.
    #[must_use]
    pub fn plan(
        &self,
        wanted: impl IntoIterator<Item = SocketAddr>,
        in_use: impl Fn(u16) -> bool,
    ) -> TargetPlan {
        let wanted: BTreeSet<_> = wanted.into_iter().collect();
        let mut held = BTreeMap::new();
        for (address, known) in &self.held {
            let retired = !wanted.contains(address);
            if !retired || !known.retired || in_use(known.slot) {
                let slot = known.slot;
                held.insert(*address, Held { slot, retired });
            }
        }
        let mut free = self.free.iter().copied();
        let mut left_out = Vec::new();
        for address in wanted {
            if held.contains_key(&address) {
                continue;
            }
            match free.next() {
                Some(slot) => {
                    let retired = false;
                    held.insert(address, Held { slot, retired });
                }
                None => left_out.push(address),
            }
        }
        let slots = held.iter().map(|(address, held)| (*address, held.slot));
        TargetPlan {
            slots: slots.collect(),
            left_out,
            held,
        }
    }

    /// Makes a plan of this state the new state, once its table is live.
    pub fn commit(&mut self, plan: TargetPlan) {
        self.held = plan.held;
        self.free = self.unheld();
    }

    /// Whether a plan changes nothing.
    #[must_use]
    pub fn is_as_planned(&self, plan: &TargetPlan) -> bool {
        self.held == plan.held
    }

    fn unheld(&self) -> BTreeSet<u16> {
        let held: BTreeSet<_> = self.held.values().map(|held| held.slot).collect();
        let all = 0..TARGETS_MAX as u16;
        all.filter(|slot| !held.contains(slot)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(port: u16) -> SocketAddr {
        ([10, 0, 0, 1], port).into()
    }

    fn apply(targets: &mut Targets, wanted: &[u16], in_use: &[u16]) -> Vec<(u16, u16)> {
        let wanted = wanted.iter().map(|port| target(*port));
        let plan = targets.plan(wanted, |slot| in_use.contains(&slot));
        assert!(plan.left_out.is_empty());
        let slots = plan.slots.iter();
        let slots = slots.map(|(address, slot)| (address.port(), *slot));
        let slots = slots.collect();
        targets.commit(plan);
        slots
    }

    #[test]
    fn an_address_keeps_its_slot_while_connections_lead_there() {
        let mut targets = Targets::default();
        let first = apply(&mut targets, &[1, 2, 1], &[]);
        assert_eq!(first, [(1, 0), (2, 1)], "two services share a target");
        let both = [(1, 0), (2, 1), (3, 2)];
        assert_eq!(apply(&mut targets, &[2, 3], &[0]), both, "no longer wanted");
        assert_eq!(apply(&mut targets, &[2, 3], &[0]), both, "still in use");
        assert_eq!(apply(&mut targets, &[2, 3], &[]), [(2, 1), (3, 2)]);
        assert_eq!(
            apply(&mut targets, &[2, 3, 4], &[]),
            [(2, 1), (3, 2), (4, 0)],
            "the slot is given away by the next plan"
        );
    }

    #[test]
    fn a_connection_may_begin_until_the_plan_is_in_force() {
        let mut targets = Targets::default();
        apply(&mut targets, &[1], &[]);
        assert_eq!(apply(&mut targets, &[], &[]), [(1, 0)]);
        assert_eq!(apply(&mut targets, &[], &[0]), [(1, 0)]);
        assert_eq!(apply(&mut targets, &[], &[]), []);
    }

    #[test]
    fn one_that_comes_back_is_not_retired() {
        let mut targets = Targets::default();
        apply(&mut targets, &[1], &[]);
        let plan = targets.plan([], |_| true);
        assert!(!targets.is_as_planned(&plan), "it is retired");
        targets.commit(plan);
        assert!(targets.is_as_planned(&targets.plan([], |_| true)));
        assert!(!targets.is_as_planned(&targets.plan([], |_| false)));
        apply(&mut targets, &[1], &[0]);
        assert!(targets.is_as_planned(&targets.plan([target(1)], |_| false)));
    }

    #[test]
    fn what_was_there_before_goes_on() {
        let mut targets = Targets::adopted([(target(9), 5), (target(8), 0)]);
        let slots = apply(&mut targets, &[9, 7], &[0]);
        assert_eq!(slots, [(7, 1), (8, 0), (9, 5)]);
    }

    #[test]
    fn there_are_no_more_than_the_map_has() {
        let targets = Targets::default();
        let plan = targets.plan((0..=TARGETS_MAX as u16).map(target), |_| false);
        assert_eq!(plan.slots.len(), TARGETS_MAX as usize);
        assert_eq!(plan.left_out, [target(TARGETS_MAX as u16)]);
    }
}
