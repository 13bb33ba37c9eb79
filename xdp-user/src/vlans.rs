//! VLAN devices on top of protected interfaces. A segment with two tags still carries the inner one
//! where the TC program of the interface sees it, so that it can be admitted only on the device
//! that takes the outer tag off.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{
        LinkOrder, TcAttachType,
        tc::{SchedClassifierLink, TcAttachOptions},
    },
};

use crate::{loader, netlink::link::Link};

/// The TC programs on VLAN devices; dropping it takes them off.
#[derive(Debug)]
pub struct Vlans {
    /// Indexes of the protected interfaces.
    interfaces: BTreeSet<u32>,
    /// By index of the device; `None` where the kernel refused, which has been said.
    devices: HashMap<u32, Option<SchedClassifierLink>>,
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
    pub fn update(&mut self, ebpf: &mut Ebpf, links: &[Link]) {
        let wanted: Vec<_> = devices(&self.interfaces, links).collect();
        self.devices
            .retain(|index, _| wanted.iter().any(|link| link.index == *index));
        for link in wanted {
            if self.devices.contains_key(&link.index) {
                continue;
            }
            let attached = match attach(ebpf, link) {
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
}

/// The VLAN devices directly on top of `interfaces`.
fn devices<'a>(interfaces: &BTreeSet<u32>, links: &'a [Link]) -> impl Iterator<Item = &'a Link> {
    links.iter().filter(|link| {
        link.vlan_of
            .is_some_and(|lower| interfaces.contains(&lower))
    })
}

fn attach(ebpf: &mut Ebpf, link: &Link) -> Result<SchedClassifierLink> {
    let program = loader::tc_inner_program(ebpf)?;
    let id = program
        .attach_with_options(
            &link.name,
            TcAttachType::Ingress,
            // Before other programs, which might redirect what has to be admitted here.
            TcAttachOptions::TcxOrder(LinkOrder::first()),
        )
        .with_context(|| format!("cannot attach the TC program to VLAN device {}", link.name))?;
    Ok(program.take_link(id)?)
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
        let found = devices(&protected, &links).map(|link| link.index);
        assert_eq!(found.collect::<Vec<_>>(), [4, 7]);
    }
}
