//! From a data path in the kernel to a splice thread that serves it.

use std::{
    collections::HashSet,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf,
    maps::{DevMap, Map, MapError},
};
use xdp_common::{
    abi::{iface_slot, names},
    splice::index::buckets,
};

use super::{
    Splicer, Splicing,
    director::Director,
    hops::Finder,
    ways::{is_asking, publish},
};
use crate::{
    netlink::link::Link,
    offer::KernelOffer,
    protection::Protection,
    secret::Secret,
    services::Pools,
    splice::{Maps, Setup, Splice},
};

/// How often the ways to targets are looked for before clients are answered, and how long it takes
/// between.
const LOOKS: u32 = 10;
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// What a start of splicing needs.
#[derive(Debug)]
pub struct Start<'a> {
    /// The object with the maps.
    pub ebpf: &'a mut Ebpf,
    /// What the data path is told.
    pub protection: &'a mut Protection,
    /// The interfaces that levee attaches to.
    pub links: &'a [Link],
    /// The master secret.
    pub secret: &'a Secret,
    /// What was published, and with which offer.
    pub pools: &'a Pools,
    /// See `pools`.
    pub offer: &'a KernelOffer,
}

impl Splicing {
    /// Takes over the table of connections, and serves what the data path hands over. The finder
    /// has found the ways to targets that could be found at once.
    ///
    /// # Errors
    /// Says what the kernel refuses.
    pub fn start(&mut self, start: Start<'_>) -> Result<(Splicer, Finder)> {
        let Start {
            ebpf,
            protection,
            links,
            secret,
            pools,
            offer,
        } = start;
        for link in links {
            let map = ebpf.map_mut(names::DEVICES);
            let map = map.with_context(|| missing(names::DEVICES))?;
            DevMap::try_from(map)?
                .set(iface_slot(link.index), link.index, None, 0)
                .with_context(|| format!("cannot put {} into the map DEVICES", link.name))?;
        }
        self.announce(protection, offer, pools);
        let finder = self.find_ways(protection, links)?;
        let held = *protection.control();
        let flow_seed = match held.flow_mask {
            0 => getrandom::u64().context("no random numbers")?,
            // What an earlier controller has filled the table with.
            _ => held.flow_seed,
        };
        let port_hash_key = [
            getrandom::u64().context("no random numbers")?,
            getrandom::u64().context("no random numbers")?,
        ];
        let flows_max = self.shared.flows_max;
        let setup = Setup {
            maps: Maps {
                flows: take_fd(ebpf, names::FLOWS)?,
                index: take_fd(ebpf, names::FLOW_INDEX)?,
                flow_count: flows_max + 1,
                flow_seed,
                xsks: take_map(ebpf, names::XSKS)?,
                answered: take_map(ebpf, names::ANSWERED)?,
            },
            links: links.to_vec(),
            director: Director::new(
                Arc::clone(&self.shared.directory),
                Arc::clone(&self.shared.hops),
                secret.client_hash_key(),
                port_hash_key,
            ),
            keys: held.keys,
            clock_s: held.clock_s,
            started: self.started,
            stats: Arc::clone(&self.shared.thread),
        };
        let splice = Splice::start(setup)?;
        protection.splice(flow_seed, buckets(flows_max))?;
        let found = splice.adoption();
        if found.kept > 0 {
            log::info!("{} spliced connection(s) go on", found.kept);
        }
        let splicer = Splicer {
            thread: Arc::new(splice),
            spliced: Arc::clone(&self.shared),
        };
        Ok((splicer, finder))
    }

    /// Most neighbours are known already, because the backends were checked.
    fn find_ways(&self, protection: &mut Protection, links: &[Link]) -> Result<Finder> {
        let attached: HashSet<u32> = links.iter().map(|link| link.index).collect();
        let mut finder = Finder::default();
        for look in 1..=LOOKS {
            let targets: Vec<_> = protection.targets().collect();
            let found = finder.find(&targets, &attached, &self.shared.hops)?;
            protection.set_hops(&found)?;
            if look == LOOKS || !is_asking(&finder) {
                break;
            }
            thread::sleep(LOOK_PAUSE);
        }
        publish(&self.shared, &finder);
        Ok(finder)
    }
}

fn missing(name: &str) -> String {
    format!("the eBPF object has no map {name}: was it built from this source?")
}

fn take_fd(ebpf: &mut Ebpf, name: &str) -> Result<OwnedFd> {
    match ebpf.take_map(name).with_context(|| missing(name))? {
        Map::Array(map) => Ok(map.fd().as_fd().try_clone_to_owned()?),
        _ => bail!("the map {name} is not what levee expects"),
    }
}

fn take_map<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<T> {
    let map = ebpf.take_map(name).with_context(|| missing(name))?;
    T::try_from(map).with_context(|| format!("the map {name} is not what levee expects"))
}
