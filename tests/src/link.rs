//! veth pairs between namespaces, set up so that XDP behaves on them as on a NIC.
use std::{
    fs,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result, bail};
use nix::unistd::Pid;

use crate::{
    netns::Netns,
    scheduling::{pin_thread, set_nice},
};

/// Receive threads go before ordinary processes, as the soft interrupts of a NIC do.
const RECEIVE_NICE: i32 = -15;

/// One end of a veth pair.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Where it lives.
    pub netns: &'a Netns,
    /// Interface name, at most 15 bytes.
    pub name: &'a str,
    /// MAC address as text.
    pub mac: &'a str,
    /// Where what this end receives is processed.
    pub receive: Receive,
}

/// Where what a veth receives is processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receive {
    /// On the sender's CPU, in the sender's time: what veth does by itself.
    InSender,
    /// On a kernel thread, on whichever CPU is free.
    OnThread,
    /// On a kernel thread pinned to this CPU.
    OnCpu(usize),
}

/// Makes a veth pair, both ends up, with:
/// - checksum and segmentation offloads off, because XDP forwards frames as they are and a frame
///   with a partial checksum would arrive broken;
/// - VLAN tags in the frame instead of beside it, where XDP could not see them;
/// - GRO on, because only then does veth accept redirected frames without an XDP program.
///
/// Returns the threads that receive for each end that has one.
///
/// # Errors
/// Fails when `ip` or `ethtool` do.
pub fn veth(a: End<'_>, b: End<'_>, mtu: u32) -> Result<[Vec<Pid>; 2]> {
    let (a_name, b_name) = (unique_name(), unique_name());
    a.netns.tool(&format!(
        "ip link add {a_name} address {} mtu {mtu} type veth peer name {b_name} address {} \
         mtu {mtu} netns {}",
        a.mac,
        b.mac,
        b.netns.path().display()
    ))?;
    for (end, name) in [(a, &a_name), (b, &b_name)] {
        let netns = end.netns;
        netns.tool(&format!("ip link set {name} up"))?;
        // Only on an interface that is up does GRO make the peer a target for redirects.
        netns.tool(&format!(
            "ethtool -K {name} tx off gro on txvlan off tx-vlan-stag-hw-insert off"
        ))?;
    }
    let mut threads = [Vec::new(), Vec::new()];
    for ((end, name), threads) in [(a, &a_name), (b, &b_name)].into_iter().zip(&mut threads) {
        if end.receive != Receive::InSender {
            *threads = receive_on_thread(end.netns, name)?;
        }
        if let Receive::OnCpu(cpu) = end.receive {
            threads.iter().try_for_each(|id| pin_thread(*id, cpu))?;
        }
        end.netns
            .tool(&format!("ip link set {name} name {}", end.name))?;
    }
    Ok(threads)
}

/// Leaves checksums to the interface for what it sends, as with a NIC. Segments are still made in
/// software: what veth is given in larger pieces it delivers on the sender's CPU, in its time.
///
/// # Errors
/// Fails when `ethtool` does.
pub fn offload_checksums(netns: &Netns, name: &str) -> Result<()> {
    netns.tool(&format!("ethtool -K {name} tx on tso off"))?;
    Ok(())
}

/// A MAC address as `ip` takes it.
#[must_use]
pub fn mac_text(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// The index of an interface.
///
/// # Errors
/// Fails when it does not exist.
pub fn ifindex(netns: &Netns, name: &str) -> Result<u32> {
    netns
        .run(|| Ok(nix::net::if_::if_nametoindex(name)?))
        .with_context(|| format!("no interface {name} in {}", netns.name()))
}

/// What an interface has sent since it was made, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transmitted {
    /// Taken by the peer.
    pub sent: u64,
    /// Lost because the peer's receive queue was full.
    pub dropped: u64,
}

impl Transmitted {
    /// The share that was lost since an earlier reading, 0 to 1.
    #[must_use]
    pub fn lost_since(&self, earlier: &Self) -> f64 {
        let sent = self.sent.saturating_sub(earlier.sent);
        let dropped = self.dropped.saturating_sub(earlier.dropped);
        dropped as f64 / (sent + dropped).max(1) as f64
    }
}

/// What an interface of the calling thread's namespace has sent.
///
/// # Errors
/// Fails when the interface does not exist.
pub fn transmitted_here(name: &str) -> Result<Transmitted> {
    let table = fs::read_to_string("/proc/thread-self/net/dev").context("cannot read net/dev")?;
    let line = table
        .lines()
        .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))
        .with_context(|| format!("no interface {name}"))?;
    // Eight columns for what was received, then bytes, packets, errors and drops.
    let column = |index| -> Result<u64> {
        let field = line.split_whitespace().nth(index);
        field
            .and_then(|field| field.parse().ok())
            .with_context(|| format!("unexpected line for {name} in net/dev: {line}"))
    };
    Ok(Transmitted {
        sent: column(9)?,
        dropped: column(11)?,
    })
}

/// Moves the interface's NAPI to a kernel thread. The thread carries the name that the interface has
/// now, which is how it is found: so the name must be unique on the machine.
fn receive_on_thread(netns: &Netns, unique: &str) -> Result<Vec<Pid>> {
    netns.run_with_sysfs(|| {
        let path = format!("/sys/class/net/{unique}/threaded");
        fs::write(&path, "1").context("cannot enable threaded NAPI")
    })?;
    let prefix = format!("napi/{unique}-");
    let mut threads = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")? {
        let file_name = entry.context("cannot read /proc")?.file_name();
        let Some(id) = file_name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process that has ended since the directory was read is not the one sought.
        let name = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
        if name.starts_with(&prefix) {
            let id = Pid::from_raw(id);
            set_nice(id, RECEIVE_NICE)?;
            threads.push(id);
        }
    }
    if threads.is_empty() {
        bail!("no kernel thread {prefix}* after enabling threaded NAPI");
    }
    Ok(threads)
}

/// An interface name that no other lab uses, at most 15 bytes.
fn unique_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("lv{:x}x{number:x}", std::process::id())
}
