//! What stands between the flood and the server: the systems that demo and benchmarks compare.
use std::{fs, io::Write as _, net::SocketAddr, process::Stdio};

use anyhow::{Context as _, Result, bail};
use aya::programs::XdpMode;

use crate::{
    levee::Levee,
    netns::Netns,
    object::Object,
    server::BACKLOG,
    topology::{INTERFACE, Lab},
};

/// A way to protect a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// levee, started as a user would.
    Levee,
    /// The kernel's own SYN cookies, `tcp_syncookies=1`: the default of a Linux machine.
    Syncookies,
    /// nftables' SYNPROXY, set up as its wiki says.
    Synproxy,
    /// No server at all: XDP sends every frame back as it is. The ceiling of this lab.
    XdpTx,
    /// No server at all: XDP drops every frame. What the flood generator delivers.
    XdpDrop,
}

/// A system at work; dropping it takes it off.
#[derive(Debug)]
pub struct Protection {
    levee: Option<Levee>,
    _bare: Option<Object>,
}

impl System {
    /// Its name in tables and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Levee => "levee",
            Self::Syncookies => "tcp_syncookies",
            Self::Synproxy => "nft_synproxy",
            Self::XdpTx => "xdp_tx",
            Self::XdpDrop => "xdp_drop",
        }
    }

    /// Sets the lab's host up with this system for one service on port `services[0].port()`.
    ///
    /// # Errors
    /// Names the tool or setting that failed.
    pub fn start(self, lab: &Lab, services: &[SocketAddr]) -> Result<Protection> {
        configure_kernel(lab)?;
        let mut protection = Protection {
            levee: None,
            _bare: None,
        };
        match self {
            Self::Levee => {
                protection.levee = Some(Levee::protect(&lab.host, &[INTERFACE], services)?);
            }
            Self::Syncookies => {}
            Self::Synproxy => {
                let port = services.first().context("no service to protect")?.port();
                synproxy(&lab.host, "input", &[port])?;
            }
            Self::XdpTx => protection._bare = Some(bare(lab, "lab_tx")?),
            Self::XdpDrop => protection._bare = Some(bare(lab, "lab_drop")?),
        }
        Ok(protection)
    }
}

impl Protection {
    /// The running levee, if that is the system.
    #[must_use]
    pub fn levee(&self) -> Option<&Levee> {
        self.levee.as_ref()
    }
}

/// One of the lab's programs alone on the host's interface.
fn bare(lab: &Lab, program: &str) -> Result<Object> {
    let mut object = Object::load(&[])?;
    object.attach_xdp(&lab.host, INTERFACE, program, XdpMode::Driver)?;
    Ok(object)
}

/// The same for all: cookies when the queue is full (the default), and queues as long as the web
/// server asks for.
fn configure_kernel(lab: &Lab) -> Result<()> {
    lab.host.sysctl("net.ipv4.tcp_syncookies", "1")?;
    lab.host
        .sysctl("net.ipv4.tcp_max_syn_backlog", &BACKLOG.to_string())?;
    lab.host.sysctl("net.core.somaxconn", &BACKLOG.to_string())
}

/// After https://wiki.nftables.org/wiki-nftables/index.php/Synproxy: SYNs are not tracked, and what
/// is untracked or belongs to no connection goes to the proxy. MSS and window scale are what the
/// lab's kernel would answer itself: with another scale, transfers stall. `hook` is `input` for servers in this namespace,
/// `forward` for those behind it.
///
/// # Errors
/// Quotes nft when it refuses the rules.
pub fn synproxy(netns: &Netns, hook: &str, ports: &[u16]) -> Result<()> {
    let ports = ports
        .iter()
        .map(u16::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    let scale = own_window_scale()?;
    let rules = format!(
        "table inet lab {{\n\
           chain untrack {{\n\
             type filter hook prerouting priority raw; policy accept;\n\
             tcp dport {{ {ports} }} tcp flags & (fin|syn|rst|ack) == syn notrack\n\
           }}\n\
           chain proxy {{\n\
             type filter hook {hook} priority filter; policy accept;\n\
             tcp dport {{ {ports} }} ct state invalid,untracked \
               synproxy mss 1460 wscale {scale} timestamp sack-perm\n\
             ct state invalid drop\n\
           }}\n\
         }}\n"
    );
    let mut nft = netns
        .command("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run `nft`: is nftables installed?")?;
    nft.stdin
        .take()
        .context("nft has no standard input")?
        .write_all(rules.as_bytes())
        .context("cannot write to nft")?;
    let output = nft.wait_with_output().context("cannot wait for nft")?;
    if !output.status.success() {
        bail!(
            "nft refused the rules: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    netns.sysctl("net.netfilter.nf_conntrack_tcp_loose", "0")
}

/// The window scale that this kernel offers: what its largest receive buffer takes (RFC 7323 2.2).
fn own_window_scale() -> Result<u32> {
    let path = "/proc/sys/net/ipv4/tcp_rmem";
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let largest: u32 = text
        .split_whitespace()
        .nth(2)
        .and_then(|bytes| bytes.parse().ok())
        .with_context(|| format!("unexpected content of {path}: {text}"))?;
    Ok(largest.max(1).ilog2().saturating_sub(15).min(14))
}
