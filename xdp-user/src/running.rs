//! A levee that is attached: what it was told, and what it has counted.

use std::{
    collections::{HashMap, HashSet},
    mem,
    net::SocketAddr,
    path::Path,
};

use anyhow::Result;
use aya::Ebpf;
use xdp_common::{
    abi::{COUNTERS, FRAGMENTS_MAX, SERVICES_MAX, iface_slot, names},
    verdict::Verdict,
};

use crate::{
    attach::Attachment,
    datapath::Packets,
    engine::half_open::Unproven,
    netlink::link::Link,
    pins::Pins,
    protection::Protection,
    snapshot::{InterfaceSnapshot, Reload, ServiceSnapshot, Snapshot},
    vlans::Vlans,
};

/// A levee that answers SYNs.
#[derive(Debug)]
pub struct Running {
    /// What the data path is told.
    pub protection: Protection,
    /// Result of the last reload.
    pub reload: Reload,
    interfaces: Vec<Interface>,
    // Behind the interfaces: dropped when nobody is answered any more.
    vlans: Vlans,
    // For VLAN devices that appear later.
    ebpf: Ebpf,
    pins: Pins,
    adopted: bool,
    /// Clients of spliced services that returned their cookie, by the service's address: the data path
    /// hands them over without counting them apart.
    pub spliced: HashMap<SocketAddr, u64>,
    /// By the service's address.
    unproven: HashMap<SocketAddr, Unproven>,
}

/// The programs of a data path, on interfaces.
#[derive(Debug)]
pub struct Programs {
    /// Those on the interfaces themselves.
    pub attachments: Vec<Attachment>,
    /// Those on VLAN devices.
    pub vlans: Vlans,
    /// The object they come from.
    pub ebpf: Ebpf,
    /// Where they are pinned.
    pub pins: Pins,
    /// Whether the maps are those of an earlier controller.
    pub adopted: bool,
}

#[derive(Debug)]
struct Interface {
    attachment: Attachment,
    attached: bool,
    /// `None` until they are measured first: they may be of a controller before this one.
    last: Option<Packets>,
    rates: Packets,
}

impl Running {
    /// A levee that has just been attached.
    #[must_use]
    pub fn new(protection: Protection, programs: Programs, unix_s: u64) -> Self {
        let interface = |attachment| Interface {
            attachment,
            attached: true,
            last: None,
            rates: [0; COUNTERS],
        };
        Self {
            protection,
            reload: Reload {
                successful: true,
                succeeded_unix_s: unix_s,
            },
            interfaces: programs.attachments.into_iter().map(interface).collect(),
            vlans: programs.vlans,
            ebpf: programs.ebpf,
            pins: programs.pins,
            adopted: programs.adopted,
            spliced: HashMap::new(),
            unproven: HashMap::new(),
        }
    }

    /// The interfaces levee was attached to.
    pub fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.interfaces
            .iter()
            .map(|interface| &interface.attachment)
    }

    /// Whether it went on with the maps of an earlier controller.
    #[must_use]
    pub const fn adopted(&self) -> bool {
        self.adopted
    }

    /// Where the data path is pinned; `None` when it ends with this process.
    #[must_use]
    pub fn pinned_at(&self) -> Option<&Path> {
        self.pins.directory()
    }

    /// Detaches all programs; what they counted can still be told.
    pub fn detach(&mut self) {
        for interface in &mut self.interfaces {
            interface.attachment.detach();
            interface.attached = false;
        }
        self.vlans.detach();
        if let Err(error) = self.pins.remove() {
            log::error!("{error:#}");
        }
    }

    /// Takes the packets of the last second, and the cookies that have not come back at `uptime_s`.
    /// To be called once a second.
    ///
    /// # Errors
    /// Fails when the kernel refuses to tell.
    pub fn measure(&mut self, uptime_s: u32) -> Result<()> {
        let mut unproven = mem::take(&mut self.unproven);
        for service in self.services_snapshot()? {
            let mut samples = unproven.remove(&service.address).unwrap_or_default();
            let (sent, valid) = (service.cookies_sent(), service.cookies_valid());
            samples.sample(uptime_s.into(), sent, valid);
            self.unproven.insert(service.address, samples);
        }
        self.measure_rates()
    }

    fn measure_rates(&mut self) -> Result<()> {
        for interface in &mut self.interfaces {
            let slot = iface_slot(interface.attachment.link.index);
            let packets = self.protection.datapath().iface_packets(slot)?;
            for (rate, (now, before)) in interface
                .rates
                .iter_mut()
                .zip(packets.iter().zip(&interface.last.unwrap_or(packets)))
            {
                *rate = now.saturating_sub(*before);
            }
            interface.last = Some(packets);
        }
        Ok(())
    }

    /// Compares with the interfaces that exist: says what was lost or is back, and attaches to VLAN
    /// devices that are new.
    pub fn check_links(&mut self, links: &[Link]) {
        self.vlans.update(&mut self.ebpf, &mut self.pins, links);
        let by_index: HashMap<u32, &Link> = links.iter().map(|link| (link.index, link)).collect();
        for interface in &mut self.interfaces {
            let Attachment {
                link, program_id, ..
            } = &interface.attachment;
            let now = by_index.get(&link.index);
            let attached = now.is_some_and(|link| link.xdp.contains(program_id));
            if attached != interface.attached {
                report_link(&link.name, attached, now.is_some());
            }
            interface.attached = attached;
        }
    }

    /// Whether SYNs are answered on all interfaces, or why not.
    ///
    /// # Errors
    /// The reason, for an operator.
    pub fn readiness(&self) -> Result<(), String> {
        let lost = self.interfaces.iter().filter(|i| !i.attached);
        let names: Vec<_> = lost.map(|i| i.attachment.link.name.as_str()).collect();
        if names.is_empty() {
            return Ok(());
        }
        Err(format!("the XDP program is gone from {}", names.join(", ")))
    }

    /// Everything that the data path counted, and nothing of others.
    ///
    /// # Errors
    /// Fails when the kernel refuses to tell.
    pub fn snapshot(&self, uptime_s: f64) -> Result<Snapshot> {
        let datapath = self.protection.datapath();
        let interfaces = self.interfaces.iter().map(|interface| {
            let Attachment { link, mode, .. } = &interface.attachment;
            Ok(InterfaceSnapshot {
                name: link.name.clone(),
                index: link.index,
                mode: *mode,
                attached: interface.attached,
                packets: datapath.iface_packets(iface_slot(link.index))?,
                rates: interface.rates,
            })
        });
        let interfaces = interfaces.collect::<Result<Vec<_>>>()?;
        let services = self.services_snapshot()?;
        let services_pressure = services.len() as f64 / f64::from(SERVICES_MAX);
        let fragments_pressure = self.fragments_pressure(&interfaces);
        Ok(Snapshot {
            uptime_s,
            adopted: self.adopted,
            key_epoch: self.protection.epoch(),
            reload: self.reload,
            services,
            interfaces,
            map_pressure: vec![
                (names::SERVICES, services_pressure),
                (names::FRAGMENTS, fragments_pressure),
            ],
            proxy: None,
            splice: None,
        })
    }

    fn services_snapshot(&self) -> Result<Vec<ServiceSnapshot>> {
        // One that is there for its last spliced connections may have the name of another by now.
        let mut names = HashSet::new();
        let protected = self.protection.services().iter();
        let protected = protected.filter(|service| names.insert(&service.name));
        let services = protected.map(|service| {
            let unproven = self.unproven.get(&service.address);
            let mut packets = self.protection.packets(service)?;
            let spliced = self.spliced.get(&service.address);
            packets[Verdict::CookieValid.slot()] += spliced.copied().unwrap_or(0);
            Ok(ServiceSnapshot {
                name: service.name.clone(),
                address: service.address,
                packets,
                unproven: unproven.map_or(0, Unproven::depth),
                unproven_oldest_s: unproven.map_or(0, Unproven::oldest_age_s),
                kernel: None,
            })
        });
        services.collect()
    }

    /// Walks the table only when fragments came in: nearly always it is empty.
    fn fragments_pressure(&self, interfaces: &[InterfaceSnapshot]) -> f64 {
        let slot = Verdict::Fragment.slot();
        if interfaces.iter().all(|i| i.packets[slot] == 0) {
            return 0.0;
        }
        let used = self.protection.datapath().fragments(FRAGMENTS_MAX);
        f64::from(used) / f64::from(FRAGMENTS_MAX)
    }
}

fn report_link(name: &str, attached: bool, exists: bool) {
    match (attached, exists) {
        (true, _) => log::info!("{name}: the XDP program is attached again"),
        (false, true) => log::error!(
            "{name}: the XDP program was detached by someone else; SYNs that come in there are \
             not answered by levee any more. Restart levee to protect it again"
        ),
        (false, false) => log::error!(
            "{name}: the interface is gone. If it comes back, restart levee to protect it again"
        ),
    }
}
