//! Tagged links on kernels without VLAN devices.
//!
//! On the wire, and for levee's XDP program, frames are tagged as from a real VLAN. levee's TC
//! program sees what it would see in front of a VLAN device: IP, with one tag beside the frame. The
//! shim's own program after it takes that tag off, as the VLAN device would.
use std::env;

use anyhow::{Result, bail};
use aya::programs::{
    LinkOrder, TcAttachType,
    tc::{NlOptions, TcAttachOptions, qdisc_add_clsact},
};

use crate::{guest, netns::Netns, object::Object};

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

/// One tag.
pub const VLAN: [Tag; 1] = [Tag {
    protocol: 0x8100,
    id: 100,
}];

/// Whether this kernel has VLAN devices. If not, the reason is printed, for whoever skips a test.
///
/// # Errors
/// Fails without them in a [guest], whose kernel was chosen for having them.
pub fn has_devices() -> Result<bool> {
    let trial = Netns::new("trial")?;
    trial.tool("ip link add name veth0 type veth peer name veth1")?;
    let id = VLAN[0].id;
    let Err(error) = trial.tool(&format!(
        "ip link add link veth0 name vlan0 type vlan id {id}"
    )) else {
        return Ok(true);
    };
    if env::var_os(guest::VARIABLE).is_some() {
        return Err(error);
    }
    println!("skipped: no VLAN devices here; `cargo xtask guest-test` has them: {error:#}");
    Ok(false)
}

/// MTU of VLAN devices, bytes: room for two tags within what a veth accepts.
const DEVICE_MTU: u32 = 1400;

/// Makes a VLAN device for each tag, outermost first, one on top of the other, on an interface; the
/// name of the last.
///
/// # Errors
/// Fails where the kernel has none, or the interface does not exist.
pub fn add_devices(netns: &Netns, interface: &str, tags: &Tags) -> Result<String> {
    let mut device = interface.to_owned();
    for Tag { protocol, id } in tags {
        let below = device;
        device = format!("{below}.{id}");
        netns.tool(&format!(
            "ip link add link {below} name {device} mtu {DEVICE_MTU} type vlan proto \
             {protocol:#x} id {id}"
        ))?;
        netns.tool(&format!("ip link set {device} up"))?;
    }
    Ok(device)
}

/// Two tags.
pub const QINQ: [Tag; 2] = [
    Tag {
        protocol: 0x88a8,
        id: 200,
    },
    VLAN[0],
];

const VLAN_ID_MAX: u16 = 4094;
const TAGS_MAX: usize = 2;

/// The programs of both ends of a tagged link; dropping it takes them off.
#[derive(Debug)]
pub struct VlanShim {
    host: Netns,
    interface: String,
    /// Takes the outer of two tags off on the host.
    host_outer: Option<Object>,
    _others: Vec<Object>,
}

impl VlanShim {
    /// Tags everything between `interface` in `client` and `interface` in `host`.
    ///
    /// # Errors
    /// Fails on tags out of range and on missing interfaces.
    pub fn start(client: &Netns, host: &Netns, interface: &str, tags: &Tags) -> Result<Self> {
        check(tags)?;
        let mut others = Vec::new();
        for netns in [client, host] {
            // Innermost first: every push puts its tag outside of those before it.
            for tag in tags.iter().rev() {
                others.push(push(netns, interface, *tag)?);
            }
            if !tags.is_empty() {
                others.push(pop_last(netns, interface)?);
            }
        }
        let mut host_outer = None;
        if tags.len() == TAGS_MAX {
            others.push(pop_first(client, interface)?);
            host_outer = Some(pop_first(host, interface)?);
        }
        Ok(Self {
            host: host.clone(),
            interface: interface.to_owned(),
            host_outer,
            _others: others,
        })
    }

    /// With two tags, takes the outer one off ahead of every TC program that has been attached to
    /// the host's interface until now: the kernel can make a socket only from what it knows to be
    /// IP, which with two tags is what arrives at the inner VLAN device.
    ///
    /// # Errors
    /// Fails when the program cannot be attached again.
    pub fn come_first(&mut self) -> Result<()> {
        if self.host_outer.take().is_some() {
            self.host_outer = Some(pop_first(&self.host, &self.interface)?);
        }
        Ok(())
    }
}

fn push(netns: &Netns, interface: &str, tag: Tag) -> Result<Object> {
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
    Ok(object)
}

/// Takes a tag off ahead of all other TC programs.
fn pop_first(netns: &Netns, interface: &str) -> Result<Object> {
    pop(
        netns,
        interface,
        TcAttachOptions::TcxOrder(LinkOrder::first()),
    )
}

/// Takes a tag off behind all other TC programs: classic filters run after tcx programs, whenever
/// those were attached.
fn pop_last(netns: &Netns, interface: &str) -> Result<Object> {
    netns.run(|| Ok(qdisc_add_clsact(interface)?))?;
    pop(
        netns,
        interface,
        TcAttachOptions::Netlink(NlOptions::default()),
    )
}

fn pop(netns: &Netns, interface: &str, options: TcAttachOptions) -> Result<Object> {
    let mut object = Object::load(&[])?;
    object.attach_tc(
        netns,
        interface,
        "lab_vlan_pop",
        TcAttachType::Ingress,
        options,
    )?;
    Ok(object)
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
