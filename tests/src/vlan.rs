//! Tagged links on kernels without VLAN devices.
//!
//! On the wire, and for levee's XDP program, frames are tagged as from a real VLAN. levee's TC
//! program sees what it would see in front of a VLAN device: IP, with one tag beside the frame. The
//! shim's own program after it takes that tag off, as the VLAN device would.
use anyhow::{Result, bail};
use aya::programs::{
    LinkOrder, TcAttachType,
    tc::{NlOptions, TcAttachOptions, qdisc_add_clsact},
};

use crate::{netns::Netns, object::Object};

/// One VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Tag protocol: 0x8100 (802.1Q) or 0x88a8 (802.1ad, the outer tag of QinQ).
    pub protocol: u16,
    /// VLAN id, 1 to 4094.
    pub id: u16,
}

/// The tags of a link, outermost first, at most two.
pub type Tags = [Tag];

const VLAN_ID_MAX: u16 = 4094;
const TAGS_MAX: usize = 2;

/// The programs of both ends of a tagged link; dropping it takes them off.
#[derive(Debug)]
pub struct VlanShim {
    _objects: Vec<Object>,
}

impl VlanShim {
    /// Tags everything between `interface` in `client` and `interface` in `host`. levee may start
    /// before or after.
    ///
    /// # Errors
    /// Fails on tags out of range and on missing interfaces.
    pub fn start(client: &Netns, host: &Netns, interface: &str, tags: &Tags) -> Result<Self> {
        check(tags)?;
        let mut objects = Vec::new();
        for netns in [client, host] {
            // Innermost first: every push puts its tag outside of those before it.
            for tag in tags.iter().rev() {
                let mut object = Object::load(&[
                    ("VLAN_PROTOCOL", u32::from(tag.protocol)),
                    ("VLAN_ID", u32::from(tag.id)),
                ])?;
                let order = TcAttachOptions::TcxOrder(LinkOrder::last());
                object.attach_tc(
                    netns,
                    interface,
                    "lab_vlan_push",
                    TcAttachType::Egress,
                    order,
                )?;
                objects.push(object);
            }
            objects.extend(untag(netns, interface, tags.len())?);
        }
        Ok(Self { _objects: objects })
    }
}

/// Takes `tags` tags off what an interface receives: all but the last ahead of every other TC
/// program, the last behind all of them. Classic filters run after tcx programs, whenever those
/// were attached.
fn untag(netns: &Netns, interface: &str, tags: usize) -> Result<Vec<Object>> {
    let mut objects = Vec::new();
    netns.run(|| Ok(qdisc_add_clsact(interface)?))?;
    for position in 1..=tags {
        let options = if position == tags {
            TcAttachOptions::Netlink(NlOptions::default())
        } else {
            TcAttachOptions::TcxOrder(LinkOrder::first())
        };
        let mut object = Object::load(&[])?;
        object.attach_tc(
            netns,
            interface,
            "lab_vlan_pop",
            TcAttachType::Ingress,
            options,
        )?;
        objects.push(object);
    }
    Ok(objects)
}

fn check(tags: &Tags) -> Result<()> {
    if tags.len() > TAGS_MAX {
        bail!("{} VLAN tags; at most {TAGS_MAX} are supported", tags.len());
    }
    for tag in tags {
        if tag.id == 0 || tag.id > VLAN_ID_MAX {
            bail!("VLAN id {}; allowed are 1 to {VLAN_ID_MAX}", tag.id);
        }
        if tag.protocol != 0x8100 && tag.protocol != 0x88a8 {
            bail!(
                "VLAN protocol {:#06x}; allowed are 0x8100 and 0x88a8",
                tag.protocol
            );
        }
    }
    Ok(())
}
