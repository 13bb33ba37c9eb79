//! The lab of `splice` mode: levee between a client and servers, with something between each two
//! that can lose packets or is narrower than the rest.
//!
//! ```text
//!   client        outer               levee              inner        backend
//!   eth0 ------- switch ------- eth0  levee  eth1 ------ switch ------- eth0
//! ```
//!
//! With [`Arms::One`], levee has only `eth0`, and a bridge joins it with both switches. The client
//! and the backend are in different networks either way, and each sends through levee, unless
//! [`SpliceOptions::returns`] says that the backend does not. With a narrow hop, two routers with a
//! link of [`NARROW_MTU`] between them stand in for a switch.
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use anyhow::{Context as _, Result};
use aya::programs::XdpMode;
use tempfile::TempDir;

use crate::{
    abi::ATTACKER_MAC,
    flood::{Flood, FloodSpec, Injection},
    link::{End, Receive, veth},
    netns::Netns,
    object::Object,
    scratch,
    switch::Switch,
    vlan::{Tag, VlanShim},
};

/// levee's interface towards clients, and the only one of everybody else and with one arm.
pub const INTERFACE: &str = "eth0";
/// levee's interface towards backends, with two arms.
pub const INSIDE: &str = "eth1";
/// What clients connect to.
pub const SERVICE: [IpAddr; 2] = pair(0, 1);
/// The client.
pub const CLIENT: [IpAddr; 2] = pair(1, 2);
/// The servers' host.
pub const BACKEND: [IpAddr; 2] = pair(2, 2);
/// Another address of that host, to be another server's.
pub const OTHER_BACKEND: [IpAddr; 2] = pair(2, 3);
/// An address of the backends' network that is nobody's.
pub const NOBODY: [IpAddr; 2] = pair(2, 9);
/// Addresses of levee's that it may use towards backends.
pub const POOL: [[IpAddr; 2]; 2] = [pair(2, 101), pair(2, 102)];
/// Bytes of the largest packet that a narrow hop forwards.
pub const NARROW_MTU: u32 = 1400;

/// levee in the network of clients, and of backends.
const LEVEE_OUTSIDE: [IpAddr; 2] = pair(1, 1);
const LEVEE_INSIDE: [IpAddr; 2] = pair(2, 1);
/// The router next to the client, and the one next to the backend.
const CLIENT_ROUTER: [IpAddr; 2] = pair(1, 254);
const BACKEND_ROUTER: [IpAddr; 2] = pair(2, 254);
/// Subnets of the links between levee and a router, by side, and between routers.
const LEVEE_LINK: [u8; 2] = [11, 12];
const ROUTER_LINK: u8 = 13;
/// The attacker's address in the network of clients: the way to spoofed sources.
const ATTACKER: [IpAddr; 2] = pair(1, 253);
const ATTACKER_MAC_TEXT: &str = "02:00:00:00:77:fe";
/// See [`crate::topology`]: sources of the flood.
const SPOOFED: [&str; 2] = ["198.18.0.0/15", "2001:db8:f::/48"];

const MTU: u32 = 1500;
/// Room for two VLAN tags within what a veth without VLAN awareness accepts.
const MTU_TAGGED: u32 = 1496;
const CLIENT_MAC: &str = "02:00:00:00:79:02";
const LEVEE_MAC: &str = "02:00:00:00:79:01";
/// levee's MAC address towards clients, and the only one with one arm.
pub const LEVEE_MAC_BYTES: [u8; 6] = [0x02, 0, 0, 0, 0x79, 0x01];
const LEVEE_INSIDE_MAC: &str = "02:00:00:00:79:11";
/// levee's MAC address towards backends, with two arms.
pub const LEVEE_INSIDE_MAC_BYTES: [u8; 6] = [0x02, 0, 0, 0, 0x79, 0x11];
/// The client's, and the backend's.
pub const HOST_MACS: [[u8; 6]; 2] = [[0x02, 0, 0, 0, 0x79, 0x02], [0x02, 0, 0, 0, 0x79, 0x12]];
const BACKEND_MAC: &str = "02:00:00:00:79:12";
/// Ends of links in switches, routers and bridge; the switch wants the levee side to have one.
const NEAR_LEVEE: &str = "uplink0";
const FAR: &str = "client0";

const fn pair(subnet: u8, host: u8) -> [IpAddr; 2] {
    let v4 = Ipv4Addr::new(10, 79, subnet, host);
    let v6 = Ipv6Addr::new(0xfd79, subnet as u16, 0, 0, 0, 0, 0, host as u16);
    [IpAddr::V4(v4), IpAddr::V6(v6)]
}

/// How many interfaces levee forwards between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arms {
    /// Packets leave by the interface that they came in on.
    One,
    /// One towards clients, one towards backends.
    #[default]
    Two,
}

/// A side of levee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Towards clients.
    Outside,
    /// Towards backends.
    Inside,
}

/// What differs between labs.
#[derive(Clone, Debug)]
pub struct SpliceOptions {
    /// How many interfaces levee has.
    pub arms: Arms,
    /// Whether the backend's default route leads through levee.
    pub returns: bool,
    /// Where the narrow hop is, if there is one; not with one arm.
    pub narrow: Option<Side>,
    /// VLAN tags on the link between client and levee, outermost first.
    pub tags: Vec<Tag>,
}

impl Default for SpliceOptions {
    fn default() -> Self {
        Self {
            arms: Arms::Two,
            returns: true,
            narrow: None,
            tags: Vec::new(),
        }
    }
}

/// What stands between levee and one of its neighbours.
#[derive(Debug)]
pub enum Middle {
    /// Forwards, and loses what it is told to. Its `to_host` is towards levee.
    Switch(Netns, Switch),
    /// Two routers; the second one is next to levee.
    Routers([Netns; 2]),
}

impl Middle {
    /// The switch.
    ///
    /// # Panics
    /// Where the narrow hop is.
    pub fn switch(&mut self) -> &mut Switch {
        match self {
            Self::Switch(_, switch) => switch,
            Self::Routers(_) => panic!("no switch on the side of the narrow hop"),
        }
    }
}

/// A running lab. Everything goes when it is dropped or the process ends.
#[derive(Debug)]
pub struct SpliceLab {
    /// The client.
    pub client: Netns,
    /// Where levee runs.
    pub levee: Netns,
    /// Where the servers are.
    pub backend: Netns,
    /// Between client and levee.
    pub outer: Middle,
    /// Between levee and backend.
    pub inner: Middle,
    options: SpliceOptions,
    scratch: TempDir,
    pass: Vec<Object>,
    _bridge: Option<(Netns, Object)>,
    _vlan: Option<VlanShim>,
}

impl SpliceLab {
    /// Builds namespaces, links, addresses and routes.
    ///
    /// # Errors
    /// Fails without root, or when `ip` or `ethtool` are missing.
    pub fn new(options: SpliceOptions) -> Result<Self> {
        let scratch = scratch::directory()?;
        let [client, levee, backend] = [host("client")?, host("levee")?, host("backend")?];
        levee.sysctl("net.ipv4.ip_forward", "1")?;
        levee.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        // levee forwards what the kernel would not take for its own: it answers for both networks
        // on one interface, and what it has no route for it leaves to others.
        levee.sysctl("net.ipv4.conf.all.send_redirects", "0")?;
        levee.sysctl("net.ipv4.conf.default.send_redirects", "0")?;
        let mtu = if options.tags.is_empty() {
            MTU
        } else {
            MTU_TAGGED
        };
        let (outer, inner, bridge) = match options.arms {
            Arms::Two => {
                let outside = end(&levee, INTERFACE, LEVEE_MAC);
                let inside = end(&levee, INSIDE, LEVEE_INSIDE_MAC);
                let outer = middle(&options, Side::Outside, &client, outside, mtu)?;
                let inner = middle(&options, Side::Inside, &backend, inside, mtu)?;
                (outer, inner, None)
            }
            Arms::One => {
                let bridge = Bridge::new(&levee, mtu)?;
                let outer = middle(&options, Side::Outside, &client, bridge.port("p1"), mtu)?;
                let inner = middle(&options, Side::Inside, &backend, bridge.port("p2"), mtu)?;
                (outer, inner, Some(bridge.finish()?))
            }
        };
        let lab = Self {
            client,
            levee,
            backend,
            outer,
            inner,
            options,
            scratch,
            pass: Vec::new(),
            _bridge: bridge,
            _vlan: None,
        };
        lab.address()?;
        lab.with_tags()
    }

    /// A lab with two arms, whose backend answers through levee.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn plain() -> Result<Self> {
        Self::new(SpliceOptions::default())
    }

    /// levee's interfaces.
    #[must_use]
    pub fn interfaces(&self) -> &'static [&'static str] {
        match self.options.arms {
            Arms::One => &[INTERFACE],
            Arms::Two => &[INTERFACE, INSIDE],
        }
    }

    /// Where servers of this lab keep their files; removed with the lab.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Lets client and backend receive frames as they come, for recordings: where they are joined to
    /// larger ones (GRO), the checksum of the whole is nobody's. Their interfaces are left with an
    /// XDP program, without which they would take no redirected frame then.
    ///
    /// # Errors
    /// Fails when the program cannot be attached, or `ethtool` fails.
    pub fn receive_whole_frames(&mut self) -> Result<()> {
        for netns in [&self.client, &self.backend] {
            let mut pass = Object::load(&[])?;
            pass.attach_xdp(netns, INTERFACE, "lab_pass", XdpMode::Driver)?;
            netns.tool(&format!("ethtool -K {INTERFACE} gro off"))?;
            self.pass.push(pass);
        }
        Ok(())
    }

    /// Starts a flood from where the client is.
    ///
    /// # Errors
    /// See [`Flood::start`]; and fails where the narrow hop is outside.
    pub fn flood(&self, spec: FloodSpec) -> Result<Flood> {
        let Middle::Switch(netns, switch) = &self.outer else {
            anyhow::bail!("no switch to flood from: the narrow hop is outside");
        };
        let injection = Injection {
            netns,
            interface: NEAR_LEVEE,
            macs: [ATTACKER_MAC, LEVEE_MAC_BYTES],
            chance: switch.chance(),
        };
        Flood::start(injection, spec)
    }

    /// Gives everybody addresses and routes.
    fn address(&self) -> Result<()> {
        let inside = match self.options.arms {
            Arms::One => INTERFACE,
            Arms::Two => INSIDE,
        };
        add(&self.levee, INTERFACE, SERVICE, [32, 128])?;
        // An address of the backend's subnet would be no way back through routers.
        if self.options.narrow != Some(Side::Inside) {
            for pool in POOL {
                add(&self.levee, inside, pool, [32, 128])?;
            }
        }
        add(&self.client, INTERFACE, CLIENT, [24, 64])?;
        add(&self.backend, INTERFACE, BACKEND, [24, 64])?;
        add(&self.backend, INTERFACE, OTHER_BACKEND, [24, 64])?;
        let outer_gateway = self.join(Side::Outside, INTERFACE)?;
        let inner_gateway = self.join(Side::Inside, inside)?;
        route(&self.client, "default", outer_gateway)?;
        if self.options.returns {
            route(&self.backend, "default", inner_gateway)?;
        }
        if self.options.narrow != Some(Side::Outside) {
            self.way_to_spoofed()?;
        }
        Ok(())
    }

    /// Gives levee its address on one side, and routers theirs; returns the gateway of the host on
    /// that side.
    fn join(&self, side: Side, interface: &str) -> Result<[IpAddr; 2]> {
        let (middle, own, router, number) = match side {
            Side::Outside => (&self.outer, LEVEE_OUTSIDE, CLIENT_ROUTER, 0),
            Side::Inside => (&self.inner, LEVEE_INSIDE, BACKEND_ROUTER, 1),
        };
        let Middle::Routers([far, near]) = middle else {
            add(&self.levee, interface, own, [24, 64])?;
            return Ok(own);
        };
        let link = LEVEE_LINK[number];
        add(&self.levee, interface, pair(link, 1), [24, 64])?;
        add(near, NEAR_LEVEE, pair(link, 2), [24, 64])?;
        add(near, FAR, pair(ROUTER_LINK, 1), [24, 64])?;
        add(far, NEAR_LEVEE, pair(ROUTER_LINK, 2), [24, 64])?;
        add(far, FAR, router, [24, 64])?;
        route(near, "default", pair(link, 1))?;
        route(far, "default", pair(ROUTER_LINK, 1))?;
        let net = u8::try_from(number + 1).context("two sides")?;
        let nets = [format!("10.79.{net}.0/24"), format!("fd79:{net}::/64")];
        for (net, (near_via, levee_via)) in nets
            .iter()
            .zip(pair(ROUTER_LINK, 2).into_iter().zip(pair(link, 2)))
        {
            one_route(near, net, near_via)?;
            one_route(&self.levee, net, levee_via)?;
        }
        Ok(router)
    }

    /// Answers to spoofed sources go to the attacker, who takes what is sent to its MAC address; and
    /// no flood pushes the search for a neighbour aside.
    fn way_to_spoofed(&self) -> Result<()> {
        for ((net, via), own) in SPOOFED.iter().zip(ATTACKER).zip(LEVEE_OUTSIDE) {
            neighbour(&self.levee, via, ATTACKER_MAC_TEXT)?;
            one_route(&self.levee, net, via)?;
            neighbour(&self.client, own, LEVEE_MAC)?;
        }
        Ok(())
    }

    fn with_tags(mut self) -> Result<Self> {
        if !self.options.tags.is_empty() {
            let (client, levee) = (&self.client, &self.levee);
            let shim = VlanShim::start(client, levee, INTERFACE, &self.options.tags)?;
            self._vlan = Some(shim);
        }
        Ok(self)
    }
}

/// An address pair with a port.
#[must_use]
pub fn with_port(addresses: [IpAddr; 2], port: u16) -> [SocketAddr; 2] {
    addresses.map(|ip| SocketAddr::new(ip, port))
}

/// The bridge of a lab with one arm.
struct Bridge {
    netns: Netns,
    pass: Object,
}

const BRIDGE_MACS: [(&str, &str); 2] = [("p1", "02:00:00:00:79:b1"), ("p2", "02:00:00:00:79:b2")];

impl Bridge {
    fn new(levee: &Netns, mtu: u32) -> Result<Self> {
        let netns = host("bridge")?;
        netns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        let port = end(&netns, "p0", "02:00:00:00:79:b0");
        veth(port, end(levee, INTERFACE, LEVEE_MAC), mtu)?;
        // What levee sends back from XDP reaches only a peer that has a program too.
        let mut pass = Object::load(&[])?;
        pass.attach_xdp(&netns, "p0", "lab_pass", XdpMode::Driver)?;
        Ok(Self { netns, pass })
    }

    fn port(&self, name: &'static str) -> End<'_> {
        let mac = BRIDGE_MACS.iter().find(|(port, _)| *port == name);
        end(&self.netns, name, mac.map_or("", |(_, mac)| mac))
    }

    /// Joins the ports.
    fn finish(self) -> Result<(Netns, Object)> {
        self.netns.tool("ip link add br0 type bridge")?;
        for port in ["p0", "p1", "p2"] {
            self.netns.tool(&format!("ip link set {port} master br0"))?;
        }
        self.netns.tool("ip link set br0 up")?;
        Ok((self.netns, self.pass))
    }
}

/// Joins `far`, the host on a side, with `near`, levee or its bridge.
fn middle(
    options: &SpliceOptions,
    side: Side,
    far: &Netns,
    near: End<'_>,
    mtu: u32,
) -> Result<Middle> {
    let (mac, numbers) = match side {
        Side::Outside => (CLIENT_MAC, ["a1", "a2", "a3", "a4"]),
        Side::Inside => (BACKEND_MAC, ["c1", "c2", "c3", "c4"]),
    };
    let macs = numbers.map(|number| format!("02:00:00:00:79:{number}"));
    let far_end = end(far, INTERFACE, mac);
    if options.narrow == Some(side) {
        let routers = [router("far")?, router("near")?];
        veth(end(&routers[0], FAR, &macs[0]), far_end, mtu)?;
        let narrow = end(&routers[0], NEAR_LEVEE, &macs[1]);
        veth(narrow, end(&routers[1], FAR, &macs[2]), NARROW_MTU)?;
        veth(end(&routers[1], NEAR_LEVEE, &macs[3]), near, mtu)?;
        return Ok(Middle::Routers(routers));
    }
    let netns = host("switch")?;
    // A switch has no stack of its own: its interfaces send nothing that would be counted.
    netns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    veth(end(&netns, FAR, &macs[0]), far_end, mtu)?;
    veth(end(&netns, NEAR_LEVEE, &macs[1]), near, mtu)?;
    let switch = Switch::start(&netns, FAR, NEAR_LEVEE)?;
    Ok(Middle::Switch(netns, switch))
}

fn end<'a>(netns: &'a Netns, name: &'a str, mac: &'a str) -> End<'a> {
    End {
        netns,
        name,
        mac,
        receive: Receive::InSender,
    }
}

fn host(name: &'static str) -> Result<Netns> {
    let netns = Netns::new(name)?;
    // Before any interface exists, so that every one of them inherits it.
    netns.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
    Ok(netns)
}

fn router(name: &'static str) -> Result<Netns> {
    let netns = host(name)?;
    netns.sysctl("net.ipv4.ip_forward", "1")?;
    netns.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    Ok(netns)
}

fn add(netns: &Netns, interface: &str, addresses: [IpAddr; 2], lengths: [u8; 2]) -> Result<()> {
    let mut addresses = addresses.into_iter().zip(lengths);
    addresses.try_for_each(|(ip, length)| netns.address(ip, length, interface))
}

fn route(netns: &Netns, net: &str, via: [IpAddr; 2]) -> Result<()> {
    via.into_iter()
        .try_for_each(|via| one_route(netns, net, via))
}

fn one_route(netns: &Netns, net: &str, via: IpAddr) -> Result<()> {
    let family = if via.is_ipv4() { "-4" } else { "-6" };
    netns.tool(&format!("ip {family} route add {net} via {via}"))?;
    Ok(())
}

fn neighbour(netns: &Netns, ip: IpAddr, mac: &str) -> Result<()> {
    netns.tool(&format!(
        "ip neigh add {ip} lladdr {mac} dev {INTERFACE} nud permanent"
    ))?;
    Ok(())
}
