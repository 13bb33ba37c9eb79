//! Which slot of `SERVICE_STATS` a service counts in.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
};

use xdp_common::abi::SERVICES_MAX;

/// Hands out the slots. A service keeps its slot, and so its counters, for as long as it is
/// configured.
#[derive(Debug)]
pub struct Ids {
    assigned: HashMap<SocketAddr, u16>,
    free: BTreeSet<u16>,
}

/// The slots for one list of services. Nothing is changed until it is [committed](Ids::commit).
#[derive(Debug)]
pub struct Assignment {
    /// Slots, in the order of the services.
    pub ids: Vec<u16>,
    /// Those of them whose counters have to start from zero.
    pub fresh: Vec<u16>,
    assigned: HashMap<SocketAddr, u16>,
}

impl Default for Ids {
    fn default() -> Self {
        Self {
            assigned: HashMap::new(),
            free: (0..SERVICES_MAX as u16).collect(),
        }
    }
}

impl Ids {
    /// Slots that are in use already, by service.
    #[must_use]
    pub fn adopted(assigned: HashMap<SocketAddr, u16>) -> Self {
        let mut free = Self::default().free;
        for id in assigned.values() {
            free.remove(id);
        }
        Self { assigned, free }
    }

    /// Chooses slots for `services`, each at most once, at most [`SERVICES_MAX`].
    ///
    /// Slots of services that are no longer there are not given away yet: until the new table is
    /// live, and for a moment after, packets still count in them. `None` when there are then too
    /// few, as when more than half of a full table is replaced at once.
    #[must_use]
    pub fn assign(&self, services: impl IntoIterator<Item = SocketAddr>) -> Option<Assignment> {
        let mut free = self.free.iter();
        let mut assignment = Assignment {
            ids: Vec::new(),
            fresh: Vec::new(),
            assigned: HashMap::new(),
        };
        for service in services {
            let id = match self.assigned.get(&service) {
                Some(id) => *id,
                None => {
                    let id = *free.next()?;
                    assignment.fresh.push(id);
                    id
                }
            };
            assignment.ids.push(id);
            assignment.assigned.insert(service, id);
        }
        Some(assignment)
    }

    /// Makes an assignment of this state the new state, once its table is live. Slots no longer
    /// used may be given away by the next assignment, which comes after the grace period.
    pub fn commit(&mut self, assignment: Assignment) {
        let used: BTreeSet<u16> = assignment.ids.iter().copied().collect();
        self.free = (0..SERVICES_MAX as u16)
            .filter(|id| !used.contains(id))
            .collect();
        self.assigned = assignment.assigned;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(n: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], n))
    }

    #[test]
    fn slots_are_stable_and_freed_by_the_next_commit() {
        let mut ids = Ids::default();
        let first = ids.assign([1, 2, 3].map(service)).unwrap();
        assert_eq!(first.ids, [0, 1, 2]);
        assert_eq!(first.fresh, [0, 1, 2]);
        ids.commit(first);
        let second = ids.assign([3, 4].map(service)).unwrap();
        assert_eq!(second.ids, [2, 3], "slots in the live table are not reused");
        assert_eq!(second.fresh, [3]);
        ids.commit(second);
        let third = ids.assign([4, 5, 3].map(service)).unwrap();
        assert_eq!(third.ids, [3, 0, 2]);
        assert_eq!(third.fresh, [0]);
    }

    #[test]
    fn an_assignment_that_is_dropped_changes_nothing() {
        let ids = Ids::default();
        drop(ids.assign([1, 2].map(service)));
        assert_eq!(ids.assign([3].map(service)).unwrap().ids, [0]);
    }

    #[test]
    fn all_slots_can_be_used_but_not_replaced_at_once() {
        let mut ids = Ids::default();
        let max = SERVICES_MAX as u16;
        let all = ids.assign((0..max).map(service)).unwrap();
        ids.commit(all);
        assert!(ids.assign((0..max).map(service)).is_some());
        assert!(ids.assign((1..=max).map(service)).is_none());
        let fewer = ids.assign((1..max).map(service)).unwrap();
        ids.commit(fewer);
        assert!(ids.assign((1..=max).map(service)).is_some());
    }
}
