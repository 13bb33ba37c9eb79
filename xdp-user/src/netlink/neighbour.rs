//! Neighbours: the MAC addresses that the kernel has found for addresses on its links, and asking it
//! to look for one (ARP, RFC 826; neighbour discovery, RFC 4861).

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
};
use netlink_sys::protocols::NETLINK_ROUTE;

/// A neighbour as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Index of the interface that it is behind.
    pub ifindex: u32,
    /// Its address.
    pub ip: IpAddr,
    /// Its MAC address; `None` as long as it has not answered, and when it no longer does.
    pub mac: Option<[u8; 6]>,
    /// Whether the kernel takes the MAC address for good, so that it need not be
    /// [asked for](ask_for).
    pub is_fresh: bool,
}

/// The neighbours of this network namespace, of both families.
///
/// # Errors
/// Fails when the kernel does not answer.
pub fn neighbours() -> Result<Vec<Neighbour>> {
    let request = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
    let answers = super::dump(NETLINK_ROUTE, request).context("cannot list the neighbours")?;
    let neighbours = answers.iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewNeighbour(message) => read(message),
        _ => None,
    });
    Ok(neighbours.collect())
}

/// Has the kernel find out the MAC address of a neighbour, or confirm the one that it has. Answers
/// at once: what it finds, [`neighbours`] tells later. The kernel sends as little as for packets of
/// its own, however often it is asked.
///
/// # Errors
/// Fails when the kernel refuses, as for an interface that is down.
pub fn ask_for(ifindex: u32, ip: IpAddr) -> Result<()> {
    let mut request = NeighbourMessage::default();
    request.header.family = match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    request.header.ifindex = ifindex;
    request.header.flags = NeighbourFlags::Use;
    request
        .attributes
        .push(NeighbourAttribute::Destination(ip.into()));
    let request = RouteNetlinkMessage::NewNeighbour(request);
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
    super::ask(NETLINK_ROUTE, request, flags)
        .with_context(|| format!("cannot ask for the neighbour {ip}"))?;
    Ok(())
}

fn read(message: &NeighbourMessage) -> Option<Neighbour> {
    let state = message.header.state;
    let (mut ip, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                ip = Some(IpAddr::V4(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                ip = Some(IpAddr::V6(*v6));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    let is_fresh = matches!(
        state,
        NeighbourState::Reachable | NeighbourState::Permanent | NeighbourState::Noarp
    );
    // A failed neighbour keeps the address that it no longer answers at.
    let is_known = is_fresh
        || matches!(
            state,
            NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe
        );
    Some(Neighbour {
        ifindex: message.header.ifindex,
        ip: ip?,
        mac: mac.filter(|_| is_known),
        is_fresh,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(state: NeighbourState) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 3;
        message.header.state = state;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet([192, 0, 2, 1].into())),
            NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 1]),
        ];
        message
    }

    #[test]
    fn a_mac_counts_as_long_as_the_kernel_would_use_it() {
        for (state, is_known, is_fresh) in [
            (NeighbourState::Reachable, true, true),
            (NeighbourState::Permanent, true, true),
            (NeighbourState::Stale, true, false),
            (NeighbourState::Probe, true, false),
            (NeighbourState::Failed, false, false),
            (NeighbourState::Incomplete, false, false),
        ] {
            let expected = Neighbour {
                ifindex: 3,
                ip: [192, 0, 2, 1].into(),
                mac: is_known.then_some([2, 0, 0, 0, 0, 1]),
                is_fresh,
            };
            assert_eq!(read(&message(state)), Some(expected), "{state:?}");
        }
    }

    #[test]
    fn the_kernel_lists_neighbours_and_knows_its_interfaces() {
        neighbours().unwrap();
        assert!(ask_for(u32::MAX / 2, [192, 0, 2, 1].into()).is_err());
    }
}
