//! What the controller's tasks share: the running data path, behind a lock that is only ever held
//! for a few system calls.

use std::{
    collections::HashMap,
    mem,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use anyhow::Result;
use aya::Ebpf;
use tokio::sync::watch;
use xdp_common::{
    abi::{COUNTERS, FRAGMENTS_MAX, SERVICES_MAX, iface_slot, names},
    verdict::Verdict,
};

use crate::{
    attach::Attachment,
    config::Service,
    datapath::Packets,
    engine::half_open::Unproven,
    netlink::link::Link,
    protection::Protection,
    proxy::Proxy,
    reap::Watched,
    snapshot::{InterfaceSnapshot, ProxySnapshot, Reload, ServiceSnapshot, Snapshot},
    vlans::Vlans,
};

/// What is shared.
#[derive(Debug)]
pub struct Shared {
    started: Instant,
    state: Mutex<State>,
    /// Outlives the state: connections go on while levee stops.
    proxy: Mutex<Option<Arc<Proxy>>>,
    /// The services whose sockets in the kernel are looked at.
    watched: watch::Sender<Vec<Arc<Watched>>>,
}

/// How far levee has come.
#[derive(Debug)]
enum State {
    Starting,
    Running(Box<Running>),
    /// What it was, as long as there is anything to tell of it.
    Stopping(Option<Box<Running>>),
}

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
    /// By the service's address.
    unproven: HashMap<SocketAddr, Unproven>,
}

#[derive(Debug)]
struct Interface {
    attachment: Attachment,
    attached: bool,
    last: Packets,
    rates: Packets,
}

impl Shared {
    /// The state at the start.
    #[must_use]
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            state: Mutex::new(State::Starting),
            proxy: Mutex::default(),
            watched: watch::Sender::default(),
        }
    }

    /// Since levee started, seconds; monotonic.
    #[must_use]
    pub fn uptime_s(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// levee is attached from now on.
    pub fn run(&self, running: Running) {
        *self.lock() = State::Running(Box::new(running));
    }

    /// Answers no SYN from now on; whoever was answered is still admitted. False when levee was not
    /// running.
    pub fn stop_answering(&self) -> bool {
        let mut state = self.lock();
        let State::Running(mut running) = mem::replace(&mut *state, State::Stopping(None)) else {
            return false;
        };
        running.stop_answering();
        *state = State::Stopping(Some(running));
        true
    }

    /// Detaches everything from the interfaces of a levee that is stopping.
    pub fn detach(&self) {
        if let State::Stopping(Some(running)) = &mut *self.lock() {
            running.detach();
        }
    }

    /// Works on the running levee; `None` when it is not running.
    pub fn with<T>(&self, f: impl FnOnce(&mut Running) -> T) -> Option<T> {
        match &mut *self.lock() {
            State::Running(running) => Some(f(running)),
            State::Starting | State::Stopping(_) => None,
        }
    }

    /// The proxy; `None` as long as no service needed it.
    #[must_use]
    pub fn proxy(&self) -> Option<Arc<Proxy>> {
        self.proxy_lock().clone()
    }

    /// The proxy is there from now on.
    pub fn set_proxy(&self, proxy: Arc<Proxy>) {
        *self.proxy_lock() = Some(proxy);
    }

    /// Has the sockets of these services looked at from now on.
    pub fn watch(&self, services: &[Service]) {
        self.watched.send_modify(|watched| {
            let known: HashMap<_, _> = watched.iter().map(|w| (w.address, Arc::clone(w))).collect();
            let watch = |service: &Service| {
                let previous = known.get(&service.address).map(|known| &**known);
                Arc::new(Watched::new(service, previous))
            };
            *watched = services.iter().map(watch).collect();
        });
    }

    /// The services whose sockets are to be looked at.
    #[must_use]
    pub fn watched(&self) -> watch::Receiver<Vec<Arc<Watched>>> {
        self.watched.subscribe()
    }

    /// Whether levee protects what it should, or why not.
    ///
    /// # Errors
    /// The reason, for an operator.
    pub fn readiness(&self) -> Result<(), String> {
        match &*self.lock() {
            State::Starting => Err("starting: not attached yet".into()),
            State::Stopping(_) => Err("stopping: SYNs are no longer answered by levee".into()),
            State::Running(running) => running.readiness(),
        }
    }

    /// Everything counted, now; `None` when levee is starting, or has stopped.
    ///
    /// # Errors
    /// Fails when the kernel refuses to tell.
    pub fn snapshot(&self) -> Result<Option<Snapshot>> {
        let uptime_s = self.uptime_s();
        let (mut snapshot, stopping) = match &*self.lock() {
            State::Running(running) => (running.snapshot(uptime_s)?, false),
            State::Stopping(Some(running)) => (running.snapshot(uptime_s)?, true),
            State::Starting | State::Stopping(None) => return Ok(None),
        };
        let watched = self.watched.borrow();
        let watched: HashMap<_, _> = watched.iter().map(|w| (w.address, w)).collect();
        for service in &mut snapshot.services {
            let watched = watched.get(&service.address);
            service.kernel = watched.map(|watched| Arc::clone(watched));
        }
        snapshot.proxy = self.proxy().map(|proxy| ProxySnapshot {
            draining: stopping,
            connections_max: proxy.connections_max(),
            limit_entries: proxy.limit_entries(),
            services: proxy.services(),
            workers: proxy.workers(),
        });
        Ok(Some(snapshot))
    }

    fn proxy_lock(&self) -> MutexGuard<'_, Option<Arc<Proxy>>> {
        self.proxy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere is no reason to stop counting; every change under the lock is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self::new()
    }
}

impl Running {
    /// A levee that has just been attached.
    #[must_use]
    pub fn new(
        protection: Protection,
        ebpf: Ebpf,
        attachments: Vec<Attachment>,
        vlans: Vlans,
        unix_s: u64,
    ) -> Self {
        let interface = |attachment| Interface {
            attachment,
            attached: true,
            last: [0; COUNTERS],
            rates: [0; COUNTERS],
        };
        Self {
            protection,
            reload: Reload {
                successful: true,
                succeeded_unix_s: unix_s,
            },
            interfaces: attachments.into_iter().map(interface).collect(),
            vlans,
            ebpf,
            unproven: HashMap::new(),
        }
    }

    /// The interfaces levee was attached to.
    pub fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.interfaces
            .iter()
            .map(|interface| &interface.attachment)
    }

    /// Detaches the XDP programs: SYNs are no longer answered, but whoever was answered is still
    /// admitted.
    fn stop_answering(&mut self) {
        for interface in &mut self.interfaces {
            interface.attachment.stop_answering();
            interface.attached = false;
        }
    }

    fn detach(&mut self) {
        for interface in &mut self.interfaces {
            interface.attachment.detach();
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
                .zip(packets.iter().zip(&interface.last))
            {
                *rate = now.saturating_sub(*before);
            }
            interface.last = packets;
        }
        Ok(())
    }

    /// Compares with the interfaces that exist: says what was lost or is back, and attaches to VLAN
    /// devices that are new.
    pub fn check_links(&mut self, links: &[Link]) {
        self.vlans.update(&mut self.ebpf, links);
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

    fn readiness(&self) -> Result<(), String> {
        let lost = self.interfaces.iter().filter(|i| !i.attached);
        let names: Vec<_> = lost.map(|i| i.attachment.link.name.as_str()).collect();
        if names.is_empty() {
            return Ok(());
        }
        Err(format!("the XDP program is gone from {}", names.join(", ")))
    }

    fn snapshot(&self, uptime_s: f64) -> Result<Snapshot> {
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
            key_epoch: self.protection.epoch(),
            reload: self.reload,
            services,
            interfaces,
            map_pressure: vec![
                (names::SERVICES, services_pressure),
                (names::FRAGMENTS, fragments_pressure),
            ],
            proxy: None,
        })
    }

    fn services_snapshot(&self) -> Result<Vec<ServiceSnapshot>> {
        let protected = self.protection.services().iter();
        let services = protected.map(|service| {
            let unproven = self.unproven.get(&service.address);
            Ok(ServiceSnapshot {
                name: service.name.clone(),
                address: service.address,
                packets: self.protection.packets(service)?,
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
