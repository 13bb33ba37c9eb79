//! The proxies that are measured, set up to hold many connections.
use std::net::SocketAddr;

use anyhow::{Result, bail};

use super::{BACKEND_PORTS, PORT};
use crate::{
    bench::proxy::System,
    levee::{Levee, ProxySetup},
    proxy_lab::{BACKEND, INTERFACE, PROXY, ProxyLab},
    relay::Relay,
};

/// A proxy at work; dropping it ends it.
pub(super) enum Running {
    Levee(Levee),
    Relay(Relay),
}

impl Running {
    /// Starts it in front of the lab's backends.
    pub(super) fn start(system: System, lab: &ProxyLab, connections: u32) -> Result<Self> {
        let waited_for = SocketAddr::new(PROXY[0], PORT);
        let backends = BACKEND_PORTS.map(|port| SocketAddr::new(BACKEND[0], port));
        Ok(match system {
            System::Levee => {
                let setup = ProxySetup {
                    cpu: None,
                    descriptors: None,
                    interfaces: &[INTERFACE],
                    configuration: &levee(&backends, connections),
                };
                Self::Levee(Levee::configured(&lab.proxy, &setup)?)
            }
            System::Haproxy => Self::Relay(Relay::haproxy(
                &lab.proxy,
                None,
                &haproxy(&backends, connections),
                waited_for,
            )?),
            System::NginxStream => Self::Relay(Relay::nginx(
                &lab.proxy,
                None,
                &nginx(&backends, connections),
                waited_for,
            )?),
            System::Direct | System::HaproxySplice | System::Synproxy | System::Splice => {
                bail!("it is not measured: levee, haproxy and nginx-stream are");
            }
        })
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        match self {
            Self::Levee(levee) => levee.id(),
            Self::Relay(relay) => relay.id(),
        }
    }

    /// Seconds that levee has spent on sweeps; `None` for others.
    pub(super) fn swept(&self) -> Result<Option<f64>> {
        match self {
            Self::Levee(levee) => {
                let sum = levee.metrics()?.sum("levee_reaper_busy_seconds_total", &[]);
                Ok(Some(sum))
            }
            Self::Relay(_) => Ok(None),
        }
    }
}

fn levee(backends: &[SocketAddr], connections: u32) -> String {
    let backends: String = backends
        .iter()
        .map(|backend| format!("[[service.backend]]\naddress = \"{backend}\"\n"))
        .collect();
    format!(
        "[proxy]\nworkers = 1\nconnections_max = {}\n\
         [[service]]\naddress = \"{}\"\nmode = \"proxy\"\n{backends}",
        connections + 1000,
        SocketAddr::new(PROXY[0], PORT)
    )
}

fn haproxy(backends: &[SocketAddr], connections: u32) -> String {
    let servers: String = backends
        .iter()
        .map(|backend| format!("  server s{} {backend}\n", backend.port()))
        .collect();
    let connections = connections + 1000;
    format!(
        "global\n  nbthread 1\n  maxconn {connections}\n\
         defaults\n  mode tcp\n  maxconn {connections}\n\
         \x20 timeout connect 3s\n  timeout client 1h\n  timeout server 1h\n\
         listen idle\n  bind {} backlog 4096\n{servers}",
        SocketAddr::new(PROXY[0], PORT)
    )
}

fn nginx(backends: &[SocketAddr], connections: u32) -> String {
    let servers: String = backends
        .iter()
        .map(|backend| format!("    server {backend};\n"))
        .collect();
    format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
         events {{ worker_connections {}; }}\n\
         stream {{\n  access_log off;\n  proxy_connect_timeout 3s; proxy_timeout 1h;\n\
         \x20 upstream backends {{\n{servers}  }}\n\
         \x20 server {{ listen {} backlog=4096 reuseport; proxy_pass backends; }}\n}}\n",
        2 * connections + 1000,
        SocketAddr::new(PROXY[0], PORT)
    )
}
