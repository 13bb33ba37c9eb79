//! The lab: three namespaces and the switch between them.
//!
//! ```text
//!   client            net (the Internet)               host
//!   eth0 ----- client0 [lab_loss] --> uplink0 ------- eth0    levee and the web server
//!                      <-- [lab_sink] uplink0
//!                      flood generator --> uplink0
//! ```
//!
//! Client and flood share the one link to the host, as on a real uplink: a receiver that cannot
//! keep up loses real clients' packets along with the flood's. Answers to spoofed sources come back
//! over the link, are counted and dropped.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use tempfile::TempDir;

use crate::{
    abi::ATTACKER_MAC,
    flood::{Flood, FloodSpec, Injection},
    link::{End, Receive, veth},
    netns::Netns,
    scheduling::busy_cpus,
    scratch,
    switch::Switch,
    vlan::{Tag, VlanShim},
};

/// The protected host's addresses.
pub const HOST_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 1);
/// See [`HOST_V4`].
pub const HOST_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 1, 0, 0, 0, 0, 0, 1);
/// The legitimate client's addresses.
pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 2);
/// See [`CLIENT_V4`].
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 1, 0, 0, 0, 0, 0, 2);
/// The interface of client and host.
pub const INTERFACE: &str = "eth0";
/// The attacker's end of the link to the host.
pub const UPLINK: &str = "uplink0";

const CLIENT_LINK: &str = "client0";
/// MAC address of the client's interface.
pub const CLIENT_MAC: &str = "02:00:00:00:77:02";
const CLIENT_LINK_MAC: &str = "02:00:00:00:77:f2";
const HOST_MAC: &str = "02:00:00:00:77:01";
/// MAC address of the host's interface.
pub const HOST_MAC_BYTES: [u8; 6] = [0x02, 0, 0, 0, 0x77, 0x01];
const UPLINK_MAC: &str = "02:00:00:00:77:fe";
/// The next hop towards spoofed sources: the attacker, who takes what is sent to its MAC address.
const GATEWAY_V4: &str = "10.77.1.254";
const GATEWAY_V6: &str = "fd77:1::fe";
/// Every source the flood uses: RFC 2544 benchmark and RFC 3849 documentation addresses.
const SPOOFED_V4: &str = "198.18.0.0/15";
const SPOOFED_V6: &str = "2001:db8:f::/48";
/// Room for two VLAN tags within what a veth without VLAN awareness accepts.
const MTU_TAGGED: u32 = 1496;
const MTU: u32 = 1500;

/// What differs between labs.
#[derive(Clone, Debug, Default)]
pub struct LabOptions {
    /// VLAN tags on the link, outermost first; none by default.
    pub tags: Vec<Tag>,
}

/// A running lab. Everything goes when it is dropped or the process ends.
#[derive(Debug)]
pub struct Lab {
    /// The legitimate client.
    pub client: Netns,
    /// The Internet: the switch and the attacker.
    pub net: Netns,
    /// The protected host.
    pub host: Netns,
    /// Counters, and loss of chosen segments.
    pub switch: Switch,
    scratch: TempDir,
    vlan: Option<VlanShim>,
}

impl Lab {
    /// Builds namespaces, links, addresses and routes and starts the switch.
    ///
    /// # Errors
    /// Fails without root, or when `ip` or `ethtool` are missing.
    pub fn new(options: &LabOptions) -> Result<Self> {
        let scratch = scratch::directory()?;
        let client = Netns::new("client")?;
        let net = Netns::new("net")?;
        let host = Netns::new("host")?;
        for netns in [&client, &net, &host] {
            // Before any interface exists, so that every one of them inherits it: addresses are
            // usable at once, without duplicate address detection.
            netns.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
        }
        // The switch has no stack of its own: its interfaces send nothing that would be counted.
        net.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        let mtu = if options.tags.is_empty() {
            MTU
        } else {
            MTU_TAGGED
        };
        connect(&client, &net, &host, mtu)?;
        configure_host(&host)?;
        configure_client(&client)?;
        let switch = Switch::start(&net, CLIENT_LINK, UPLINK)?;
        let vlan = if options.tags.is_empty() {
            None
        } else {
            Some(VlanShim::start(&client, &host, INTERFACE, &options.tags)?)
        };
        Ok(Self {
            client,
            net,
            host,
            switch,
            scratch,
            vlan,
        })
    }

    /// Where servers of this lab keep their files; removed with the lab.
    #[must_use]
    pub fn scratch(&self) -> &std::path::Path {
        self.scratch.path()
    }

    /// To be called after levee has been started on a link with two VLAN tags; see
    /// [`VlanShim::come_first`].
    ///
    /// # Errors
    /// Fails when a program cannot be attached again.
    pub fn untag_first(&mut self) -> Result<()> {
        self.vlan.as_mut().map_or(Ok(()), VlanShim::come_first)
    }

    /// Starts a flood from the attacker.
    ///
    /// # Errors
    /// See [`Flood::start`].
    pub fn flood(&self, spec: FloodSpec) -> Result<Flood> {
        let injection = Injection {
            netns: &self.net,
            interface: UPLINK,
            macs: [ATTACKER_MAC, HOST_MAC_BYTES],
            chance: self.switch.chance(),
        };
        Flood::start(injection, spec)
    }
}

/// The host's IPv4 and IPv6 address with a port.
#[must_use]
pub fn host_addresses(port: u16) -> [SocketAddr; 2] {
    [IpAddr::V4(HOST_V4), IpAddr::V6(HOST_V6)].map(|ip| SocketAddr::new(ip, port))
}

fn connect(client: &Netns, net: &Netns, host: &Netns, mtu: u32) -> Result<()> {
    let end = |netns, name, mac| End {
        netns,
        name,
        mac,
        receive: Receive::InSender,
    };
    veth(
        end(net, CLIENT_LINK, CLIENT_LINK_MAC),
        end(client, INTERFACE, CLIENT_MAC),
        mtu,
    )?;
    // The host has a CPU to receive on, apart from the attacker's. The attacker's end counts and
    // drops answers in the host's time: on a thread of its own, waking it for every few answers
    // costs the host twice as much.
    let host_end = End {
        receive: busy_cpus().map_or(Receive::InSender, |(_, receiver)| Receive::OnCpu(receiver)),
        ..end(host, INTERFACE, HOST_MAC)
    };
    veth(end(net, UPLINK, UPLINK_MAC), host_end, mtu)?;
    Ok(())
}

fn configure_client(client: &Netns) -> Result<()> {
    address(client, CLIENT_V4.into())?;
    address(client, CLIENT_V6.into())?;
    neighbour(client, &HOST_V4.to_string(), HOST_MAC)?;
    neighbour(client, &HOST_V6.to_string(), HOST_MAC)
}

fn configure_host(host: &Netns) -> Result<()> {
    address(host, HOST_V4.into())?;
    address(host, HOST_V6.into())?;
    neighbour(host, &CLIENT_V4.to_string(), CLIENT_MAC)?;
    neighbour(host, &CLIENT_V6.to_string(), CLIENT_MAC)?;
    neighbour(host, GATEWAY_V4, UPLINK_MAC)?;
    neighbour(host, GATEWAY_V6, UPLINK_MAC)?;
    host.tool(&format!("ip route add {SPOOFED_V4} via {GATEWAY_V4}"))?;
    host.tool(&format!("ip -6 route add {SPOOFED_V6} via {GATEWAY_V6}"))?;
    // Otherwise the kernel remembers the lab's client as proven and spares it what strangers get.
    host.sysctl("net.ipv4.tcp_no_metrics_save", "1")
}

fn address(netns: &Netns, ip: IpAddr) -> Result<()> {
    let length = if ip.is_ipv4() { 24 } else { 64 };
    netns.address(ip, length, INTERFACE)
}

/// Permanent, so that no flood can push an ARP or neighbour-discovery exchange aside.
fn neighbour(netns: &Netns, ip: &str, mac: &str) -> Result<()> {
    netns.tool(&format!(
        "ip neigh add {ip} lladdr {mac} dev {INTERFACE} nud permanent"
    ))?;
    Ok(())
}
