//! The ways to targets: through which interface, with which tags, to which MAC address. Found by
//! the controller, looked at by the splice thread and the data path.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use anyhow::Result;
use tokio::sync::Notify;
use xdp_common::splice::flow::{Hop, TARGETS_MAX};

use crate::netlink::{
    link::{self, Link},
    neighbour::{self, Neighbour},
    route::{self, NextHop},
};

/// VLAN tags that a frame may have.
const TAGS_MAX: usize = 2;

/// The ways that are known, by slot of their target.
pub struct HopTable {
    hops: Mutex<Vec<Option<Hop>>>,
    /// Somebody asked for a way that is not known.
    wanted: AtomicBool,
    asked: Notify,
}

impl fmt::Debug for HopTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HopTable").finish_non_exhaustive()
    }
}

impl Default for HopTable {
    fn default() -> Self {
        Self {
            hops: Mutex::new(vec![None; TARGETS_MAX as usize]),
            wanted: AtomicBool::new(false),
            asked: Notify::new(),
        }
    }
}

impl HopTable {
    /// The way to a target; `None` while it is not known. Then it is looked for at once.
    #[must_use]
    pub fn get(&self, slot: u16) -> Option<Hop> {
        let hop = self.lock().get(usize::from(slot)).copied().flatten();
        if hop.is_none() && !self.wanted.swap(true, Relaxed) {
            self.asked.notify_one();
        }
        hop
    }

    /// Waits until a way that is not known was asked for, since the last time.
    pub async fn wanted(&self) {
        self.asked.notified().await;
        self.wanted.store(false, Relaxed);
    }

    fn set(&self, slot: u16, hop: Option<Hop>) {
        if let Some(known) = self.lock().get_mut(usize::from(slot)) {
            *known = hop;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Hop>>> {
        self.hops.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why there is no way to a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// It is this machine.
    Local,
    /// The kernel has no route to it.
    NoRoute(String),
    /// The route leads through an interface that levee is not attached to.
    NotAttached(String),
    /// The neighbour does not answer.
    NoNeighbour(IpAddr),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str(
                "its address is this machine's own: a server here is protected with mode = \"host\"",
            ),
            Self::NoRoute(error) => f.write_str(error),
            Self::NotAttached(name) => write!(
                f,
                "the way there leads out of {name}, and levee is not attached to it: name it as an \
                 [[interface]]"
            ),
            Self::NoNeighbour(ip) => write!(f, "the neighbour {ip} does not answer"),
        }
    }
}

/// What is known of the network at one moment.
struct Network<'a> {
    links: HashMap<u32, &'a Link>,
    neighbours: HashMap<(u32, IpAddr), &'a Neighbour>,
    attached: &'a HashSet<u32>,
}

/// Finds the ways to targets, again and again.
#[derive(Debug, Default)]
pub struct Finder {
    /// Those that were found or not, by slot.
    known: HashMap<u16, (SocketAddr, Result<Hop, Obstacle>)>,
}

impl Finder {
    /// Looks for the ways to these targets, through the interfaces with these indexes, and puts
    /// what it finds into `table`. The targets whose way has changed, with the way; one without a
    /// way keeps the last.
    ///
    /// Neighbours that have to be found or confirmed are asked for: the kernel does not see the
    /// packets that are forwarded, so nobody else does it. Takes some microseconds for each target.
    ///
    /// # Errors
    /// Fails when the kernel does not tell its interfaces or neighbours.
    pub fn find(
        &mut self,
        targets: &[(SocketAddr, u16)],
        attached: &HashSet<u32>,
        table: &HopTable,
    ) -> Result<Vec<(SocketAddr, u16, Hop)>> {
        let (links, neighbours) = (link::links()?, neighbour::neighbours()?);
        let network = Network {
            links: links.iter().map(|link| (link.index, link)).collect(),
            neighbours: neighbours.iter().map(|n| ((n.ifindex, n.ip), n)).collect(),
            attached,
        };
        let mut routes = HashMap::new();
        let mut changed = Vec::new();
        let mut known = HashMap::new();
        for (address, slot) in targets {
            let ip = address.ip();
            let route = routes.entry(ip).or_insert_with(|| {
                let route = route::next_hop(ip);
                route.map_err(|error| Obstacle::NoRoute(format!("{error:#}")))
            });
            let found = route.clone().and_then(|route| way(&route, &network));
            let before = self
                .known
                .remove(slot)
                .filter(|(known, _)| known == address);
            let before = before.map(|(_, found)| found);
            if before.as_ref() != Some(&found) {
                report(*address, before.as_ref(), &found);
                if let Ok(hop) = found {
                    table.set(*slot, Some(hop));
                    changed.push((*address, *slot, hop));
                } else if before.is_none() {
                    table.set(*slot, None);
                }
            }
            known.insert(*slot, (*address, found));
        }
        self.known = known;
        Ok(changed)
    }

    /// The slots of targets to which there is no way, with the reason.
    pub fn obstacles(&self) -> impl Iterator<Item = (u16, &Obstacle)> {
        let known = self.known.iter();
        known.filter_map(|(slot, (_, found))| Some((*slot, found.as_ref().err()?)))
    }
}

/// The way along a route.
fn way(route: &NextHop, network: &Network<'_>) -> Result<Hop, Obstacle> {
    if route.is_local {
        return Err(Obstacle::Local);
    }
    let mut hop = exit(route.ifindex, network)?;
    let key = (route.ifindex, route.neighbour);
    let neighbour = network.neighbours.get(&key);
    if neighbour.is_none_or(|neighbour| !neighbour.is_fresh)
        && let Err(error) = neighbour::ask_for(route.ifindex, route.neighbour)
    {
        log::debug!("{error:#}");
    }
    let mac = neighbour.and_then(|neighbour| neighbour.mac);
    hop.dst_mac = mac.ok_or(Obstacle::NoNeighbour(route.neighbour))?;
    Ok(hop)
}

/// How frames that the kernel would send through an interface leave, but for their receiver.
fn exit(ifindex: u32, network: &Network<'_>) -> Result<Hop, Obstacle> {
    let link = |index: u32| network.links.get(&index).copied();
    let first = link(ifindex).ok_or_else(|| Obstacle::NotAttached(format!("index {ifindex}")))?;
    let foreign = || Obstacle::NotAttached(first.name.clone());
    let mut hop = Hop {
        src_mac: first.mac,
        ..Hop::default()
    };
    let mut lowest = first;
    for _ in 0..TAGS_MAX {
        if network.attached.contains(&lowest.index) {
            break;
        }
        let below = lowest.vlan_of.and_then(link).ok_or_else(foreign)?;
        // What is above is tagged first, and so is the inner tag.
        hop.tags = [lowest.vlan_tag, hop.tags[0]];
        lowest = below;
    }
    if !network.attached.contains(&lowest.index) {
        return Err(foreign());
    }
    hop.ifindex = lowest.index;
    Ok(hop)
}

/// Says that a way was lost or found, and why there is none; nothing of one that was there at the
/// first look.
fn report(
    address: SocketAddr,
    before: Option<&Result<Hop, Obstacle>>,
    now: &Result<Hop, Obstacle>,
) {
    match (before, now) {
        (_, Err(Obstacle::NoNeighbour(ip))) if before.is_none() => {
            log::debug!("target {address}: looking for the neighbour {ip}");
        }
        (_, Err(obstacle)) => log::warn!("target {address} cannot be reached: {obstacle}"),
        (Some(Err(_)), Ok(_)) => log::info!("target {address} can be reached"),
        (_, Ok(hop)) => log::debug!("target {address}: {hop:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn link(index: u32, vlan: Option<(u32, u32)>) -> Link {
        Link {
            index,
            name: format!("if{index}"),
            mtu: 1500,
            ethernet: true,
            up: true,
            loopback: false,
            xdp: Vec::new(),
            peer: None,
            vlan_of: vlan.map(|(of, _)| of),
            vlan_tag: vlan.map_or(0, |(_, tag)| tag),
            mac: [2, 0, 0, 0, 0, index as u8],
        }
    }

    fn through(ifindex: u32) -> Result<Hop, Obstacle> {
        let links = [
            link(2, None),
            link(3, Some((2, 0x88a8_0007))),
            link(4, Some((3, 0x8100_0009))),
            link(5, Some((4, 0x8100_0001))),
            link(6, None),
        ];
        let ip = [192, 0, 2, 1].into();
        let neighbours = [2, 3, 4, 5, 6].map(|ifindex| Neighbour {
            ifindex,
            ip,
            mac: (ifindex != 3).then_some(MAC),
            is_fresh: true,
        });
        let network = Network {
            links: links.iter().map(|link| (link.index, link)).collect(),
            neighbours: neighbours.iter().map(|n| ((n.ifindex, n.ip), n)).collect(),
            attached: &HashSet::from([2]),
        };
        let route = NextHop {
            is_local: ifindex == 0,
            ifindex,
            neighbour: ip,
            source: None,
        };
        way(&route, &network)
    }

    fn hop(tags: [u32; 2], mac: u8) -> Hop {
        Hop {
            ifindex: 2,
            tags,
            dst_mac: MAC,
            src_mac: [2, 0, 0, 0, 0, mac],
            confirmed_s: 0,
        }
    }

    #[test]
    fn a_way_leaves_by_an_interface_of_levees() {
        assert_eq!(through(2), Ok(hop([0, 0], 2)));
        assert_eq!(through(4), Ok(hop([0x88a8_0007, 0x8100_0009], 4)));
        assert_eq!(
            through(5),
            Err(Obstacle::NotAttached("if5".into())),
            "3 tags"
        );
        assert_eq!(through(6), Err(Obstacle::NotAttached("if6".into())));
        assert_eq!(through(0), Err(Obstacle::Local));
        let ip = [192, 0, 2, 1].into();
        assert_eq!(through(3), Err(Obstacle::NoNeighbour(ip)));
    }

    #[tokio::test]
    async fn whoever_asks_for_an_unknown_way_is_heard() {
        let table = HopTable::default();
        assert_eq!(table.get(7), None);
        assert_eq!(table.get(7), None);
        table.wanted().await;
        table.set(7, Some(hop([0, 0], 1)));
        assert_eq!(table.get(7), Some(hop([0, 0], 1)));
        assert_eq!(table.get(u16::MAX), None, "no such slot");
        table.wanted().await;
    }
}
