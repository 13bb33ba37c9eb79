//! Network interfaces.

use anyhow::{Context as _, Result, bail};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType,
        LinkMessage, LinkXdp, VlanProtocol, XdpAttached,
    },
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
    /// Whether its frames are Ethernet's.
    pub ethernet: bool,
    /// Whether it is set up (`ip link set ... up`).
    pub up: bool,
    /// Whether it leads back to this machine.
    pub loopback: bool,
    /// Ids of the XDP programs attached to it, by any mode.
    pub xdp: Vec<u32>,
    /// Where the other end of a veth pair is; `None` for any other interface.
    pub peer: Option<Peer>,
    /// Index of the interface below, if this is a VLAN device (802.1Q, 802.1ad) on one of this
    /// network namespace.
    pub vlan_of: Option<u32>,
    /// What such a device puts before its frames: TPID in the upper and VLAN id in the lower half;
    /// 0 on any other interface.
    pub vlan_tag: u32,
    /// MAC address; zeros where it has none.
    pub mac: [u8; 6],
}

/// Where an interface is that another one is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its index there.
    pub index: u32,
    /// This network namespace's number for the one it is in; `None` for the same.
    pub netns: Option<i32>,
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

/// The other end of a veth pair, also if it is in another network namespace.
///
/// # Errors
/// Fails when the kernel does not answer, as to a process with no rights in that namespace.
pub fn peer(peer: Peer) -> Result<Link> {
    let mut request = LinkMessage::default();
    request.header.index = peer.index;
    request
        .attributes
        .extend(peer.netns.map(LinkAttribute::IfNetnsId));
    let request = RouteNetlinkMessage::GetLink(request);
    match super::get(NETLINK_ROUTE, request).context("cannot examine the veth's other end")? {
        RouteNetlinkMessage::NewLink(message) => Ok(message.into()),
        other => bail!("the kernel answers another question: {other:?}"),
    }
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mtu: 0,
            // Loopback frames have Ethernet's header.
            ethernet: matches!(
                message.header.link_layer_type,
                LinkLayerType::Ether | LinkLayerType::Loopback
            ),
            up: message.header.flags.contains(LinkFlags::Up),
            loopback: message.header.flags.contains(LinkFlags::Loopback),
            xdp: Vec::new(),
            peer: None,
            vlan_of: None,
            vlan_tag: 0,
            mac: [0; 6],
        };
        let (mut veth, mut vlan) = (false, false);
        let (mut lower, mut netns) = (None, None);
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Xdp(attributes) => link.xdp = program_ids(&attributes),
                LinkAttribute::LinkInfo(info) => {
                    veth = info.contains(&LinkInfo::Kind(InfoKind::Veth));
                    vlan = info.contains(&LinkInfo::Kind(InfoKind::Vlan));
                    link.vlan_tag = vlan_tag(&info);
                }
                LinkAttribute::Address(mac) => link.mac = mac.try_into().unwrap_or_default(),
                LinkAttribute::Link(index) => lower = Some(index),
                LinkAttribute::LinkNetNsId(id) => netns = Some(id),
                _ => {}
            }
        }
        if veth {
            link.peer = lower.map(|index| Peer { index, netns });
        }
        if vlan && netns.is_none() {
            link.vlan_of = lower;
        }
        link
    }
}

/// The tag of a VLAN device; 0 for another.
fn vlan_tag(info: &[LinkInfo]) -> u32 {
    let data = info.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vlan(data)) => Some(data),
        _ => None,
    });
    let (mut tpid, mut id) = (u16::from(VlanProtocol::Ieee8021Q), 0);
    for info in data.into_iter().flatten() {
        match info {
            InfoVlan::Id(found) => id = *found,
            InfoVlan::Protocol(found) => tpid = u16::from(*found),
            _ => {}
        }
    }
    data.map_or(0, |_| u32::from(tpid) << 16 | u32::from(id))
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
        let expected = Link {
            index: 1,
            name: "lo".into(),
            mtu: 65_536,
            ethernet: true,
            up: lo.up,
            loopback: true,
            xdp: Vec::new(),
            peer: None,
            vlan_of: None,
            vlan_tag: 0,
            mac: [0; 6],
        };
        assert_eq!(*lo, expected);
        let index = lo.index;
        assert_eq!(peer(Peer { index, netns: None }).unwrap(), *lo);
    }

    #[test]
    fn a_vlan_devices_tag_is_its_protocol_and_id() {
        let data = vec![
            InfoVlan::Id(7),
            InfoVlan::Protocol(VlanProtocol::Ieee8021Ad),
        ];
        assert_eq!(
            vlan_tag(&[LinkInfo::Data(InfoData::Vlan(data))]),
            0x88a8_0007
        );
        assert_eq!(vlan_tag(&[LinkInfo::Kind(InfoKind::Veth)]), 0);
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
