//! The systems compared, set up alike: one thread on one CPU, the same ports, no log.
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, getrlimit};

use super::backend::{REQUESTS, STREAMS};
use crate::{
    levee::{Levee, ProxySetup},
    proxy_lab::{BACKEND, INTERFACE, PROXY, ProxyLab},
    relay::Relay,
};

const HAPROXY_PIPES: u64 = 256;

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
}

/// A system at work; dropping it ends it.
pub(super) struct Running {
    process: Option<Process>,
}

enum Process {
    Levee(Levee),
    Relay(Relay),
}

impl System {
    /// All, in the order of their turns.
    pub const ALL: [Self; 5] = [
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
        }
    }

    /// Where clients connect to.
    pub(super) const fn address(self) -> IpAddr {
        match self {
            Self::Direct => BACKEND[0],
            _ => PROXY[0],
        }
    }

    /// Starts it in front of the lab's backend, on one CPU if one is given.
    pub(super) fn start(self, lab: &ProxyLab, cpu: Option<usize>) -> Result<Running> {
        let waited_for = SocketAddr::new(PROXY[0], STREAMS);
        let process = match self {
            Self::Direct => None,
            Self::Levee => {
                let setup = ProxySetup {
                    cpu,
                    interfaces: &[INTERFACE],
                    configuration: &levee(),
                    ..ProxySetup::default()
                };
                Some(Process::Levee(Levee::configured(&lab.proxy, &setup)?))
            }
            Self::Haproxy | Self::HaproxySplice => {
                let configuration = haproxy(self == Self::HaproxySplice)?;
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
    pub(super) fn id(&self) -> Option<u32> {
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

fn levee() -> String {
    let services = [REQUESTS, STREAMS].map(|port| {
        format!(
            "[[service]]\naddress = \"{}\"\nmode = \"proxy\"\n\
             [[service.backend]]\naddress = \"{}\"\n",
            SocketAddr::new(PROXY[0], port),
            SocketAddr::new(BACKEND[0], port)
        )
    });
    format!(
        "[proxy]\nworkers = 1\npipes_max = 64\n{}",
        services.concat()
    )
}

fn haproxy(splice: bool) -> Result<String> {
    // Its pipes are file descriptors too.
    let connections = (descriptors_max()? - 2 * HAPROXY_PIPES - 500) / 2;
    let splice = if splice { "  option splice-auto\n" } else { "" };
    let services = [REQUESTS, STREAMS].map(|port| {
        format!(
            "listen port{port}\n  bind {} backlog 4096\n  server backend {}\n",
            SocketAddr::new(PROXY[0], port),
            SocketAddr::new(BACKEND[0], port)
        )
    });
    Ok(format!(
        "global\n  nbthread 1\n  maxconn {connections}\n  maxpipes {HAPROXY_PIPES}\n\
         defaults\n  mode tcp\n  maxconn {connections}\n{splice}\
         \x20 timeout connect 3s\n  timeout client 1h\n  timeout server 1h\n{}",
        services.concat()
    ))
}

fn nginx() -> Result<String> {
    let connections = descriptors_max()? - 100;
    let services = [REQUESTS, STREAMS].map(|port| {
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
