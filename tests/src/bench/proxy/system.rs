//! The systems compared, set up alike: one thread on one CPU, the same ports, no log.
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, getrlimit};

use super::backend::{BANNERS, IPERF, REQUESTS, STREAMS, listen};
use crate::{
    levee::{Levee, ProxySetup},
    protection::synproxy,
    proxy_lab::{BACKEND, INSIDE, INTERFACE, PROXY, ProxyLab},
    relay::Relay,
    scheduling::busy_cpus,
};

const HAPROXY_PIPES: u64 = 256;
/// The backend's ports that are served.
const PORTS: [u16; 4] = [REQUESTS, STREAMS, IPERF, BANNERS];

/// What stands between client and backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum System {
    /// Nothing: the proxy's namespace routes.
    Direct,
    /// levee in `proxy` mode.
    Levee,
    /// HAProxy with `mode tcp`.
    Haproxy,
    /// The same with `option splice-auto`.
    HaproxySplice,
    /// nginx with its stream module.
    NginxStream,
    /// Routing, with nftables' SYNPROXY before it.
    Synproxy,
    /// levee in `splice` mode.
    Splice,
}

/// A system at work; dropping it ends it.
pub(in crate::bench) struct Running {
    process: Option<Process>,
}

enum Process {
    Levee(Levee),
    Relay(Relay),
}

impl System {
    /// Those that are compared as proxies, in the order of their turns.
    pub const PROXIES: [Self; 5] = [
        Self::Direct,
        Self::Levee,
        Self::Haproxy,
        Self::HaproxySplice,
        Self::NginxStream,
    ];

    /// Its name in tables and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Levee => "levee",
            Self::Haproxy => "haproxy",
            Self::HaproxySplice => "haproxy_splice",
            Self::NginxStream => "nginx_stream",
            Self::Synproxy => "nft_synproxy",
            Self::Splice => "levee_splice",
        }
    }

    /// Where clients connect to.
    pub(in crate::bench) const fn address(self) -> IpAddr {
        match self {
            Self::Direct | Self::Synproxy => BACKEND[0],
            _ => PROXY[0],
        }
    }

    /// Starts it in front of the lab's backend, with one thread on one CPU if one is given, else
    /// with as many threads as CPUs may be busy.
    pub(in crate::bench) fn start(self, lab: &ProxyLab, cpu: Option<usize>) -> Result<Running> {
        // For levee's one check of each backend: an iperf3 would take it for its client.
        let _checked = listen(lab, IPERF)?;
        let waited_for = SocketAddr::new(PROXY[0], STREAMS);
        let threads = if cpu.is_none() && busy_cpus().is_some() {
            2
        } else {
            1
        };
        let process = match self {
            Self::Direct => None,
            Self::Synproxy => {
                synproxy(&lab.proxy, "forward", &PORTS)?;
                None
            }
            Self::Levee | Self::Splice => {
                let mode = if self == Self::Levee {
                    "proxy"
                } else {
                    "splice"
                };
                let interfaces: &[_] = match self {
                    Self::Splice => &[INTERFACE, INSIDE],
                    _ => &[INTERFACE],
                };
                let setup = ProxySetup {
                    cpu,
                    interfaces,
                    configuration: &levee(mode, threads),
                    ..ProxySetup::default()
                };
                Some(Process::Levee(Levee::configured(&lab.proxy, &setup)?))
            }
            Self::Haproxy | Self::HaproxySplice => {
                let configuration = haproxy(self == Self::HaproxySplice, threads)?;
                let relay = Relay::haproxy(&lab.proxy, cpu, &configuration, waited_for)?;
                Some(Process::Relay(relay))
            }
            Self::NginxStream => {
                let relay = Relay::nginx(&lab.proxy, cpu, &nginx()?, waited_for)?;
                Some(Process::Relay(relay))
            }
        };
        Ok(Running { process })
    }
}

impl Running {
    /// The process that proxies.
    pub(in crate::bench) fn id(&self) -> Option<u32> {
        self.process.as_ref().map(|process| match process {
            Process::Levee(levee) => levee.id(),
            Process::Relay(relay) => relay.id(),
        })
    }
}

/// File descriptors that a process may have; those started by this one may have as many.
pub(super) fn descriptors_max() -> Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read RLIMIT_NOFILE")?;
    Ok(soft.min(hard))
}

fn levee(mode: &str, threads: u32) -> String {
    let services = PORTS.map(|port| {
        format!(
            "[[service]]\naddress = \"{}\"\nmode = \"{mode}\"\n\
             check = {{ type = \"tcp\", interval = \"1h\" }}\n\
             [[service.backend]]\naddress = \"{}\"\n",
            SocketAddr::new(PROXY[0], port),
            SocketAddr::new(BACKEND[0], port)
        )
    });
    format!(
        "[proxy]\nworkers = {threads}\npipes_max = 64\n{}",
        services.concat()
    )
}

fn haproxy(splice: bool, threads: u32) -> Result<String> {
    // Its pipes are file descriptors too.
    let connections = (descriptors_max()? - 2 * HAPROXY_PIPES - 500) / 2;
    let splice = if splice { "  option splice-auto\n" } else { "" };
    let services = PORTS.map(|port| {
        format!(
            "listen port{port}\n  bind {} backlog 4096\n  server backend {}\n",
            SocketAddr::new(PROXY[0], port),
            SocketAddr::new(BACKEND[0], port)
        )
    });
    Ok(format!(
        "global\n  nbthread {threads}\n  maxconn {connections}\n  maxpipes {HAPROXY_PIPES}\n\
         defaults\n  mode tcp\n  maxconn {connections}\n{splice}\
         \x20 timeout connect 3s\n  timeout client 1h\n  timeout server 1h\n{}",
        services.concat()
    ))
}

fn nginx() -> Result<String> {
    let connections = descriptors_max()? - 100;
    let services = PORTS.map(|port| {
        format!(
            "  server {{ listen {} backlog=4096 reuseport; proxy_pass {}; }}\n",
            SocketAddr::new(PROXY[0], port),
            SocketAddr::new(BACKEND[0], port)
        )
    });
    Ok(format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
         events {{ worker_connections {connections}; }}\n\
         stream {{\n  access_log off; tcp_nodelay on;\n\
         \x20 proxy_connect_timeout 3s; proxy_timeout 1h;\n{}}}\n",
        services.concat()
    ))
}
