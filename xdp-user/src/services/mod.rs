//! The service table: from the configured services to the buckets the data path looks them up in.
//! Pure: what has to be written is planned here, and written by `datapath`.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::SocketAddr,
};

use xdp_common::abi::{
    KIND_ADDRESS, KIND_SERVICE, KIND_TARGET, MODE_KERNEL, MODE_SPLICE, OFFER_WINDOW_SCALE,
    ServiceEntry,
};

use crate::{config::Service, learned::Agreed, offer::KernelOffer};

mod ids;
mod table;
mod targets;

pub use ids::{Assignment, Ids};
pub use table::{BucketWrite, Plan, Table, TableFull};
pub use targets::{TargetPlan, Targets};

/// Where spliced connections may lead, and what may be offered for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pools {
    /// The backends' addresses.
    pub targets: BTreeSet<SocketAddr>,
    /// What the backends of a service agree to, by the service's address, as far as it is known.
    pub agreed: HashMap<SocketAddr, Agreed>,
    /// The slots in `TARGETS` that connections lead to; `None` when that is not known.
    pub in_use: Option<HashSet<u16>>,
}

impl Pools {
    /// Whether connections may lead to the target in this slot.
    #[must_use]
    pub fn is_in_use(&self, slot: u16) -> bool {
        self.in_use
            .as_ref()
            .is_none_or(|slots| slots.contains(&slot))
    }
}

/// What the table tells of spliced services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spliced {
    /// What the backends of services in `splice` mode agree to, by the service's address; one that
    /// is missing here is not known yet.
    pub agreed: HashMap<SocketAddr, Agreed>,
    /// The backends' addresses, with their slots in `TARGETS`.
    pub targets: Vec<(SocketAddr, u16)>,
}

/// The entries for some services: one for each service, one for each of their addresses, and one for
/// each target. `ids` are the services' slots in `SERVICE_STATS`, in the same order.
#[must_use]
pub fn entries(
    services: &[Service],
    ids: &[u16],
    offer: &KernelOffer,
    spliced: &Spliced,
) -> Vec<ServiceEntry> {
    let mut entries: Vec<_> = services
        .iter()
        .zip(ids)
        .map(|(service, &id)| match service.splice() {
            None => service_entry(service, id, offer),
            Some(_) => {
                let agreed = spliced.agreed.get(&service.address);
                spliced_entry(service, id, offer, agreed.copied())
            }
        })
        .collect();
    let mut addresses: Vec<_> = services.iter().map(|s| s.address.ip()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    entries.extend(addresses.into_iter().map(|ip| ServiceEntry {
        addr: ip.into(),
        kind: KIND_ADDRESS,
        ..ServiceEntry::default()
    }));
    let targets = spliced.targets.iter();
    entries.extend(targets.map(|(address, slot)| ServiceEntry {
        addr: address.ip().into(),
        port: address.port(),
        kind: KIND_TARGET,
        id: *slot,
        ..ServiceEntry::default()
    }));
    entries
}

fn service_entry(service: &Service, id: u16, offer: &KernelOffer) -> ServiceEntry {
    let mss = interface_mss(service, offer);
    ServiceEntry {
        addr: service.address.ip().into(),
        port: service.address.port(),
        kind: KIND_SERVICE,
        id,
        mss: service.mss.unwrap_or(mss),
        window: service.window.unwrap_or_else(|| offer.window(mss)),
        window_scale: service.window_scale.unwrap_or(offer.window_scale),
        offer: offer.flags,
        mode: MODE_KERNEL,
        reserved: [0; 3],
    }
}

/// What clients of a spliced service are offered: what all its backends do, as far as that is known.
/// No window: whoever has sent a request before a backend has answered would send it again.
fn spliced_entry(
    service: &Service,
    id: u16,
    offer: &KernelOffer,
    agreed: Option<Agreed>,
) -> ServiceEntry {
    let terms = spliced_terms(service, offer, agreed);
    ServiceEntry {
        addr: service.address.ip().into(),
        port: service.address.port(),
        kind: KIND_SERVICE,
        id,
        mss: terms.mss,
        window: 0,
        window_scale: terms.window_scale,
        offer: terms.flags,
        mode: MODE_SPLICE,
        reserved: [0; 3],
    }
}

/// What clients of a spliced service are offered.
#[must_use]
pub fn spliced_terms(service: &Service, offer: &KernelOffer, agreed: Option<Agreed>) -> Agreed {
    let agreed = agreed.unwrap_or_else(|| Agreed::least(service.address.is_ipv6()));
    let mss = agreed.mss.min(interface_mss(service, offer));
    Agreed {
        mss: service.mss.unwrap_or(mss),
        // A scale that is configured is no use to a backend that has none.
        window_scale: match agreed.flags & OFFER_WINDOW_SCALE {
            0 => 0,
            _ => service.window_scale.unwrap_or(agreed.window_scale),
        },
        flags: agreed.flags,
    }
}

const fn interface_mss(service: &Service, offer: &KernelOffer) -> u16 {
    match service.address {
        SocketAddr::V4(_) => offer.mss_v4,
        SocketAddr::V6(_) => offer.mss_v6,
    }
}

#[cfg(test)]
mod tests;
