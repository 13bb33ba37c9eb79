//! The proxy's lab: a namespace for each of client, proxy and backend, in a row.
//!
//! ```text
//!   client                     proxy                    backend
//!   eth0 -------------- eth0   levee   eth1 -------------- eth0
//! ```
//!
//! The proxy's namespace also routes between the other two, so that a direct connection takes the
//! same way without a proxy on it.
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use anyhow::{Result, bail};
use aya::programs::XdpMode;
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::{
    link::{End, Receive, mac_text, offload_checksums, veth},
    netns::Netns,
    object::Object,
    scheduling::busy_cpus,
    scratch,
};

/// The proxy's addresses towards clients.
pub const PROXY: [IpAddr; 2] = pair(Ipv4Addr::new(10, 78, 1, 1), 0x78, 1, 1);
/// The client's addresses.
pub const CLIENT: [IpAddr; 2] = pair(Ipv4Addr::new(10, 78, 1, 2), 0x78, 1, 2);
/// The backend's addresses.
pub const BACKEND: [IpAddr; 2] = pair(Ipv4Addr::new(10, 78, 2, 2), 0x78, 2, 2);
/// The proxy's addresses towards backends.
pub const PROXY_INSIDE: [IpAddr; 2] = pair(Ipv4Addr::new(10, 78, 2, 1), 0x78, 2, 1);
/// The proxy's interface towards clients, and the only one of client and backend.
pub const INTERFACE: &str = "eth0";
/// The proxy's interface towards backends.
pub const INSIDE: &str = "eth1";
/// IPv4 addresses that the client has besides [`CLIENT`].
pub const MORE_CLIENTS: u8 = 32;

/// The client's MAC address.
pub const CLIENT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0x78, 0x02];
/// The MAC address of the proxy's interface towards clients.
pub const PROXY_MAC: [u8; 6] = [0x02, 0, 0, 0, 0x78, 0x01];

const MTU: u32 = 1500;
const SETTINGS: [(&str, &str); 6] = [
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv6.conf.all.forwarding", "1"),
    // A proxy that closes towards a backend first uses up a port for a minute otherwise.
    ("net.ipv4.tcp_tw_reuse", "1"),
    ("net.ipv4.ip_local_port_range", "10240 65535"),
    ("net.core.somaxconn", "4096"),
    ("net.ipv4.tcp_max_syn_backlog", "4096"),
];

const fn pair(v4: Ipv4Addr, net: u16, subnet: u16, host: u16) -> [IpAddr; 2] {
    let v6 = Ipv6Addr::new(0xfd00 + net, subnet, 0, 0, 0, 0, 0, host);
    [IpAddr::V4(v4), IpAddr::V6(v6)]
}

/// What the links are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// The proxy's driver can answer from XDP, which veth delivers only to a peer that has an XDP
    /// program too. That one costs the client a copy of every packet.
    Driver,
    /// Without XDP in drivers; levee's runs in generic mode.
    Generic,
    /// For forwarding from XDP: drivers have it on both sides, and checksums are complete before
    /// they are sent, because XDP forwards frames as they are. Nobody has a CPU of his own: with two
    /// of them, client and backend would need one each, and what forwards would seem to cost
    /// nothing.
    Forwarding,
}

/// A running lab. Everything goes when it is dropped or the process ends.
#[derive(Debug)]
pub struct ProxyLab {
    /// Where clients are.
    pub client: Netns,
    /// Where the proxy runs.
    pub proxy: Netns,
    /// Where backends are.
    pub backend: Netns,
    /// Kernel threads that receive for the proxy's interfaces.
    pub receivers: Vec<Pid>,
    scratch: TempDir,
    /// The programs without which an interface takes no redirected frame.
    programs: Vec<Object>,
}

impl ProxyLab {
    /// A lab with XDP in its drivers.
    ///
    /// # Errors
    /// As [`with`](Self::with).
    pub fn new() -> Result<Self> {
        Self::with(Links::Driver)
    }

    /// Builds namespaces, links, addresses and routes. What is received is processed by threads of
    /// its own. With two CPUs, those for the proxy's interfaces are on the second, the others' on
    /// the first; but see [`Links::Forwarding`].
    ///
    /// # Errors
    /// Fails without root, or when `ip` or `ethtool` are missing.
    pub fn with(links: Links) -> Result<Self> {
        let scratch = scratch::directory()?;
        let client = Netns::new("client")?;
        let proxy = Netns::new("proxy")?;
        let backend = Netns::new("backend")?;
        for netns in [&client, &proxy, &backend] {
            // Before any interface exists, so that every one of them inherits it.
            netns.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
            for (name, value) in SETTINGS {
                netns.sysctl(name, value)?;
            }
        }
        let end = |netns, name, mac, receive| End {
            netns,
            name,
            mac,
            receive,
        };
        let [outer, inner] = links.receive();
        let [client_mac, proxy_mac] = [CLIENT_MAC, PROXY_MAC].map(mac_text);
        let [_, outside] = veth(
            end(&client, INTERFACE, &client_mac, outer),
            end(&proxy, INTERFACE, &proxy_mac, inner),
            MTU,
        )?;
        let [_, inside] = veth(
            end(&backend, INTERFACE, "02:00:00:00:78:12", outer),
            end(&proxy, INSIDE, "02:00:00:00:78:11", inner),
            MTU,
        )?;
        if links != Links::Forwarding {
            for (netns, name) in [
                (&client, INTERFACE),
                (&proxy, INTERFACE),
                (&proxy, INSIDE),
                (&backend, INTERFACE),
            ] {
                offload_checksums(netns, name)?;
            }
        }
        let with_xdp: &[&Netns] = match links {
            Links::Driver => &[&client],
            Links::Generic => &[],
            Links::Forwarding => &[&client, &backend],
        };
        let pass = with_xdp
            .iter()
            .map(|netns| pass(netns))
            .collect::<Result<_>>()?;
        addresses(&client, INTERFACE, CLIENT)?;
        addresses(&proxy, INTERFACE, PROXY)?;
        addresses(&proxy, INSIDE, PROXY_INSIDE)?;
        addresses(&backend, INTERFACE, BACKEND)?;
        for address in more_clients() {
            client.tool(&format!("ip address add {address}/24 dev {INTERFACE}"))?;
        }
        default_routes(&client, PROXY)?;
        default_routes(&backend, PROXY_INSIDE)?;
        Ok(Self {
            client,
            proxy,
            backend,
            receivers: [outside, inside].concat(),
            scratch,
            programs: pass,
        })
    }

    /// Where servers of this lab keep their files; removed with the lab.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Has the backend drop all frames as they come, or take them again.
    ///
    /// # Errors
    /// Fails but with [`Links::Forwarding`], and when the program cannot be attached.
    pub fn set_backend_drops(&mut self, drops: bool) -> Result<()> {
        let [_, backend] = &mut self.programs[..] else {
            bail!("the backend has no XDP program");
        };
        // The interface has room for one: the former goes first.
        *backend = Object::load(&[])?;
        let name = if drops { "lab_drop" } else { "lab_pass" };
        backend.attach_xdp(&self.backend, INTERFACE, name, XdpMode::Driver)?;
        Ok(())
    }
}

impl Links {
    /// Where client and backend receive, and where the proxy does.
    fn receive(self) -> [Receive; 2] {
        match (self, busy_cpus()) {
            (Self::Forwarding, _) => [Receive::OnThread; 2],
            (_, None) => [Receive::InSender; 2],
            (_, Some((first, second))) => [Receive::OnCpu(first), Receive::OnCpu(second)],
        }
    }
}

/// An XDP program that passes everything, on a namespace's interface.
fn pass(netns: &Netns) -> Result<Object> {
    let mut object = Object::load(&[])?;
    object.attach_xdp(netns, INTERFACE, "lab_pass", XdpMode::Driver)?;
    Ok(object)
}

/// The IPv4 addresses that the client has besides [`CLIENT`].
pub fn more_clients() -> impl Iterator<Item = Ipv4Addr> {
    (0..MORE_CLIENTS).map(|number| Ipv4Addr::new(10, 78, 1, 100 + number))
}

/// An address pair with a port.
#[must_use]
pub fn with_port(addresses: [IpAddr; 2], port: u16) -> [SocketAddr; 2] {
    addresses.map(|ip| SocketAddr::new(ip, port))
}

fn addresses(netns: &Netns, interface: &str, addresses: [IpAddr; 2]) -> Result<()> {
    for (address, length) in addresses.into_iter().zip([24, 64]) {
        netns.tool(&format!(
            "ip address add {address}/{length} dev {interface}"
        ))?;
    }
    Ok(())
}

fn default_routes(netns: &Netns, via: [IpAddr; 2]) -> Result<()> {
    for (via, family) in via.into_iter().zip(["-4", "-6"]) {
        netns.tool(&format!("ip {family} route add default via {via}"))?;
    }
    Ok(())
}
