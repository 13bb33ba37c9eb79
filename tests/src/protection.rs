//! What stands between the flood and the server: the systems that demo and benchmarks compare.
use std::{io::Write as _, net::SocketAddr, process::Stdio};

use anyhow::{Context as _, Result, bail};
use aya::programs::XdpMode;

use crate::{
    levee::Levee,
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
            Self::Synproxy => configure_synproxy(lab, services)?,
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
/// is untracked or belongs to no connection goes to the proxy. Window scale 7 and MSS 1460 are what
/// this host's kernel would answer itself.
fn configure_synproxy(lab: &Lab, services: &[SocketAddr]) -> Result<()> {
    let port = services.first().context("no service to protect")?.port();
    let rules = format!(
        "table inet lab {{\n\
           chain untrack {{\n\
             type filter hook prerouting priority raw; policy accept;\n\
             tcp dport {port} tcp flags & (fin|syn|rst|ack) == syn notrack\n\
           }}\n\
           chain proxy {{\n\
             type filter hook input priority filter; policy accept;\n\
             tcp dport {port} ct state invalid,untracked \
               synproxy mss 1460 wscale 7 timestamp sack-perm\n\
             ct state invalid drop\n\
           }}\n\
         }}\n"
    );
    let mut nft = lab
        .host
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
    lab.host.sysctl("net.netfilter.nf_conntrack_tcp_loose", "0")
}
