//! VLAN devices on top of protected interfaces. A segment with two tags still carries the inner one
//! where the TC program of the interface sees it, so that it can be admitted only on the device
//! that takes the outer tag off.

use std::collections::{BTreeSet, HashMap};

use anyhow::Result;
use aya::{Ebpf, programs::tc::SchedClassifierLink};

use crate::{
    attach, loader,
    netlink::link::Link,
    pins::{self, Attached, Pins},
};

/// The TC programs on VLAN devices.
#[derive(Debug)]
pub struct Vlans {
    /// Indexes of the protected interfaces.
    interfaces: BTreeSet<u32>,
    /// By index of the device; `None` where the kernel refused, which has been said.
    devices: HashMap<u32, Option<Attached<SchedClassifierLink>>>,
}

impl Vlans {
    /// Watches the VLAN devices on these interfaces.
    #[must_use]
    pub fn new(interfaces: impl IntoIterator<Item = u32>) -> Self {
        Self {
            interfaces: interfaces.into_iter().collect(),
            devices: HashMap::new(),
        }
    }

    /// Attaches to those VLAN devices among `links` that are new, and forgets those that are gone.
    /// What the kernel refuses is logged, once.
    pub fn update(&mut self, ebpf: &mut Ebpf, pins: &mut Pins, links: &[Link]) {
        let wanted: Vec<_> = devices(&self.interfaces, links).collect();
        let is_gone = |index: &u32| !wanted.iter().any(|(link, _)| link.index == *index);
        let gone = self.devices.extract_if(|index, _| is_gone(index));
        gone.filter_map(|(_, attached)| attached)
            .for_each(Attached::detach);
        for (link, interface) in wanted {
            if self.devices.contains_key(&link.index) {
                continue;
            }
            let attached = match attach(ebpf, pins, link, interface) {
                Ok(attached) => {
                    log::info!("attached to VLAN device {}", link.name);
                    Some(attached)
                }
                Err(error) => {
                    log::error!(
                        "{error:#}; clients that come with a second VLAN tag through {} are \
                         answered but not admitted",
                        link.name
                    );
                    None
                }
            };
            self.devices.insert(link.index, attached);
        }
    }

    /// Takes the programs off.
    pub fn detach(&mut self) {
        let devices = self.devices.drain();
        devices
            .filter_map(|(_, attached)| attached)
            .for_each(Attached::detach);
    }
}

/// The VLAN devices directly on top of `interfaces`, and on which.
fn devices<'a>(
    interfaces: &BTreeSet<u32>,
    links: &'a [Link],
) -> impl Iterator<Item = (&'a Link, u32)> {
    links.iter().filter_map(|link| {
        let lower = link.vlan_of?;
        interfaces.contains(&lower).then_some((link, lower))
    })
}

fn attach(
    ebpf: &mut Ebpf,
    pins: &mut Pins,
    link: &Link,
    interface: u32,
) -> Result<Attached<SchedClassifierLink>> {
    let name = pins::tc_inner_name(link.index);
    let program = loader::tc_inner_program(ebpf)?;
    attach::attach_tc(program, link, pins, &name, interface)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_vlan_devices_of_protected_interfaces_count() {
        let link = |index, vlan_of| Link {
            index,
            name: format!("dev{index}"),
            mtu: 1500,
            ethernet: true,
            up: true,
            loopback: false,
            xdp: Vec::new(),
            peer: None,
            vlan_of,
            vlan_tag: 0,
            mac: [0; 6],
        };
        let links = [
            link(2, None),
            link(3, None),
            link(4, Some(2)),
            link(5, Some(3)),
            link(6, Some(4)),
            link(7, Some(2)),
        ];
        let protected = BTreeSet::from([2]);
        let found = devices(&protected, &links).map(|(link, lower)| (link.index, lower));
        assert_eq!(found.collect::<Vec<_>>(), [(4, 2), (7, 2)]);
    }
}
