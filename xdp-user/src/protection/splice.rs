//! What the data path is told of spliced services: where their connections lead, and the ways there.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::Result;
use xdp_common::{
    abi::Control,
    splice::flow::{Hop, Spliced, Target},
};

use super::Protection;
use crate::{
    config::Service,
    services::{Pools, TargetPlan, Targets},
};

impl Protection {
    /// Whether `pools` ask for something else than what is published.
    #[must_use]
    pub fn differs_from(&self, pools: &Pools) -> bool {
        let plan = self.plan_targets(pools);
        self.agreed != pools.agreed || !self.targets.is_as_planned(&plan)
    }

    /// The targets that the data path knows, with their slots in `TARGETS`.
    pub fn targets(&self) -> impl Iterator<Item = (SocketAddr, u16)> {
        let ways = self.ways.iter();
        ways.map(|(address, (slot, _))| (*address, *slot))
    }

    /// The id of the service at this address, if it is protected.
    #[must_use]
    pub fn id(&self, address: SocketAddr) -> Option<u16> {
        let mut services = self.services.iter();
        Some(services.find(|service| service.address == address)?.id)
    }

    /// What the data path is told at run time.
    #[must_use]
    pub const fn control(&self) -> &Control {
        &self.control
    }

    /// Has the data path look for spliced connections, in a table that is filled under this seed and
    /// has so many buckets.
    ///
    /// # Errors
    /// Fails when the kernel refuses the write.
    pub fn splice(&mut self, flow_seed: u64, buckets: u32) -> Result<()> {
        self.control.flow_seed = flow_seed;
        self.control.flow_mask = buckets - 1;
        self.datapath.set_control(&self.control)
    }

    /// Tells the data path the ways to targets that have changed. Those whose slot has another
    /// target by now are left out.
    ///
    /// # Errors
    /// Fails when the kernel refuses a write.
    pub fn set_hops(&mut self, hops: &[(SocketAddr, u16, Hop)]) -> Result<()> {
        for (address, slot, hop) in hops {
            if self
                .ways
                .get(address)
                .is_some_and(|(known, _)| known == slot)
            {
                let confirmed_s = self.control.clock_s;
                self.write_target(
                    *address,
                    *slot,
                    Hop {
                        confirmed_s,
                        ..*hop
                    },
                )?;
            }
        }
        Ok(())
    }

    /// Goes on with the targets that an earlier controller has written: connections lead there.
    pub(super) fn adopt_targets(&mut self) -> Result<()> {
        let targets = self.datapath.targets()?;
        let held = (0..).zip(&targets).filter(|(_, target)| target.port != 0);
        self.ways = held
            .map(|(slot, target)| {
                let address = SocketAddr::new(target.addr.to_ip(), target.port);
                (address, (slot, target.hop))
            })
            .collect();
        self.targets = Targets::adopted(self.targets());
        Ok(())
    }

    pub(super) fn plan_targets(&self, pools: &Pools) -> TargetPlan {
        let wanted = pools.targets.iter().copied();
        self.targets.plan(wanted, |slot| pools.is_in_use(slot))
    }

    pub(super) fn write_spliced(&mut self, services: &[Service], ids: &[u16]) -> Result<()> {
        for (service, id) in services.iter().zip(ids) {
            if service.splice().is_some() {
                let spliced = Spliced {
                    addr: service.address.ip().into(),
                    port: service.address.port(),
                    reserved: [0; 6],
                };
                self.datapath.set_spliced(*id, &spliced)?;
            }
        }
        Ok(())
    }

    /// Writes the targets that are new in their slots, without a way for now, and clears the slots
    /// of those that are gone.
    pub(super) fn write_targets(&mut self, targets: &[(SocketAddr, u16)]) -> Result<()> {
        let wanted: BTreeMap<_, _> = targets.iter().copied().collect();
        let gone = self
            .targets()
            .filter(|(address, slot)| wanted.get(address) != Some(slot));
        for (address, slot) in gone.collect::<Vec<_>>() {
            self.datapath.set_target(slot, &Target::default())?;
            self.ways.remove(&address);
        }
        for (address, slot) in targets {
            if !self.ways.contains_key(address) {
                self.write_target(*address, *slot, Hop::default())?;
            }
        }
        Ok(())
    }

    fn write_target(&mut self, address: SocketAddr, slot: u16, hop: Hop) -> Result<()> {
        let target = Target {
            addr: address.ip().into(),
            port: address.port(),
            reserved: [0; 6],
            hop,
            reserved_end: [0; 3],
        };
        self.datapath.set_target(slot, &target)?;
        self.ways.insert(address, (slot, hop));
        Ok(())
    }
}
