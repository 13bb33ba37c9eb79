//! The service table: from the configured services to the buckets the data path looks them up in.
//! Pure: what has to be written is planned here, and written by `datapath`.

use std::net::SocketAddr;

use xdp_common::abi::{KIND_ADDRESS, KIND_SERVICE, MODE_KERNEL, ServiceEntry};

use crate::{config::Service, offer::KernelOffer};

mod ids;
mod table;

pub use ids::{Assignment, Ids};
pub use table::{BucketWrite, Plan, Table, TableFull};

/// The entries for some services: one for each service, and one for each of their addresses.
/// `ids` are the services' slots in `SERVICE_STATS`, in the same order.
#[must_use]
pub fn entries(services: &[Service], ids: &[u16], offer: &KernelOffer) -> Vec<ServiceEntry> {
    let mut entries: Vec<_> = services
        .iter()
        .zip(ids)
        .map(|(service, &id)| service_entry(service, id, offer))
        .collect();
    let mut addresses: Vec<_> = services.iter().map(|s| s.address.ip()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    entries.extend(addresses.into_iter().map(|ip| ServiceEntry {
        addr: ip.into(),
        kind: KIND_ADDRESS,
        ..ServiceEntry::default()
    }));
    entries
}

fn service_entry(service: &Service, id: u16, offer: &KernelOffer) -> ServiceEntry {
    let (mss, window) = match service.address {
        SocketAddr::V4(_) => (offer.mss_v4, offer.window(offer.mss_v4)),
        SocketAddr::V6(_) => (offer.mss_v6, offer.window(offer.mss_v6)),
    };
    ServiceEntry {
        addr: service.address.ip().into(),
        port: service.address.port(),
        kind: KIND_SERVICE,
        id,
        mss: service.mss.unwrap_or(mss),
        window: service.window.unwrap_or(window),
        window_scale: service.window_scale.unwrap_or(offer.window_scale),
        offer: offer.flags,
        mode: MODE_KERNEL,
        reserved: [0; 3],
    }
}

#[cfg(test)]
mod tests;
