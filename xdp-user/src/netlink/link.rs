//! Network interfaces.

use anyhow::{Context as _, Result};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached},
};
use netlink_sys::protocols::NETLINK_ROUTE;

/// An interface as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index, from 1.
    pub index: u32,
    /// Name.
    pub name: String,
    /// MTU, bytes.
    pub mtu: u32,
    /// Ids of the XDP programs attached to it, by any mode.
    pub xdp: Vec<u32>,
}

/// The interfaces of this network namespace.
///
/// # Errors
/// Fails when the kernel does not answer.
pub fn links() -> Result<Vec<Link>> {
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let answers = super::dump(NETLINK_ROUTE, request).context("cannot list the interfaces")?;
    let links = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(message) => Some(Link::from(message)),
        _ => None,
    });
    Ok(links.collect())
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mtu: 0,
            xdp: Vec::new(),
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Xdp(attributes) => link.xdp = program_ids(&attributes),
                _ => {}
            }
        }
        link
    }
}

fn program_ids(attributes: &[LinkXdp]) -> Vec<u32> {
    if attributes.contains(&LinkXdp::Attached(XdpAttached::None)) {
        return Vec::new();
    }
    let mut ids: Vec<u32> = attributes
        .iter()
        .filter_map(|attribute| match attribute {
            LinkXdp::ProgId(id)
            | LinkXdp::DrvProgId(id)
            | LinkXdp::SkbProgId(id)
            | LinkXdp::HwProgId(id) => Some(*id),
            _ => None,
        })
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_there() {
        let links = links().unwrap();
        let lo = links.iter().find(|link| link.name == "lo").unwrap();
        assert_eq!((lo.index, lo.mtu), (1, 65_536));
    }

    #[test]
    fn program_ids_are_listed_once() {
        let attached = [
            LinkXdp::Attached(XdpAttached::Driver),
            LinkXdp::ProgId(7),
            LinkXdp::DrvProgId(7),
        ];
        assert_eq!(program_ids(&attached), [7]);
        assert!(program_ids(&[LinkXdp::Attached(XdpAttached::None)]).is_empty());
        assert!(program_ids(&[]).is_empty());
    }
}
