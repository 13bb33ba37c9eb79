//! What is served, and how something else comes to be served instead.

use std::{
    collections::HashSet,
    io,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
};

use anyhow::{Result, anyhow, ensure};
use socket2::Socket;

use super::{Proxy, hosted::Hosting, listener, runtime::ServiceRuntime, worker::Command};
use crate::{config::Service, engine::Tick, netlink::listener as kernel_listener};

/// What is served.
#[derive(Debug, Default)]
pub(super) struct Served {
    pub(super) services: Vec<Hosting>,
    /// Names of services, now and before. The position is the number in the table of clients.
    names: Vec<String>,
    /// Where this process, or a levee that leaves to it, listens or listened, perhaps for a moment
    /// still.
    addresses: HashSet<SocketAddr>,
}

/// Services that are ready to take the place of those that run.
#[derive(Debug)]
pub struct Staged {
    services: Vec<Hosting>,
    /// For each new address, a listener per worker.
    listeners: Vec<(Hosting, Vec<Socket>)>,
}

impl Proxy {
    /// Prepares to serve `services` instead of what is served now, without changing anything yet:
    /// listens at addresses that are new.
    ///
    /// # Errors
    /// Fails when an address cannot be listened at; says which, for which service, and why.
    pub fn stage(&self, services: &[Service]) -> Result<Staged> {
        let now = Tick::of(self.start.elapsed());
        let mut served = self.served();
        let mut staged = Staged {
            services: Vec::new(),
            listeners: Vec::new(),
        };
        for service in services.iter().filter(|s| s.proxy().is_some()) {
            let known = |known: &&Hosting| known.runtime.name == service.name;
            let previous = served.services.iter().find(known);
            let previous = previous.map(|known| &*known.runtime);
            let Some(runtime) = ServiceRuntime::new(service, previous, now) else {
                continue;
            };
            let address = runtime.address;
            let here = |known: &Hosting| known.runtime.address == address;
            let is_new = !served.services.iter().any(here);
            let hosting = Hosting {
                number: served.number(&runtime.name),
                runtime: Arc::new(runtime),
                oldest_ms: self.workers.iter().map(|_| AtomicU64::new(0)).collect(),
            };
            if is_new {
                let own = served.addresses.contains(&address);
                let sockets = self.listen(&hosting.runtime, own)?;
                staged.listeners.push((hosting.clone(), sockets));
            }
            staged.services.push(hosting);
        }
        Ok(staged)
    }

    fn listen(&self, service: &ServiceRuntime, own: bool) -> Result<Vec<Socket>> {
        let (name, address) = (&service.name, service.address);
        // SO_REUSEPORT would share the port with another program of the same user in silence.
        let taken = !own
            && kernel_listener::listeners()?
                .iter()
                .any(|listener| listener.serves(address));
        ensure!(
            !taken,
            "service {name} cannot listen at {address}: another program listens there already"
        );
        let socket = || {
            listener::bind(address, &service.config).map_err(|error| {
                let reason = match error.kind() {
                    io::ErrorKind::AddrInUse => "another program listens there already",
                    io::ErrorKind::AddrNotAvailable => "that is not an address of this machine",
                    _ => "the system refuses",
                };
                anyhow!(error).context(format!(
                    "service {name} cannot listen at {address}: {reason}"
                ))
            })
        };
        self.workers.iter().map(|_| socket()).collect()
    }

    /// Serves what was staged. New clients meet it at once; connections that are there keep what
    /// they were accepted with. At addresses that are served no more nobody new is accepted from
    /// half a second later.
    pub fn commit(&self, staged: Staged) {
        let mut served = self.served();
        let address = |hosting: &Hosting| hosting.runtime.address;
        let wanted: HashSet<_> = staged.services.iter().map(address).collect();
        for old in &served.services {
            if !wanted.contains(&address(old)) {
                self.tell_all(|| Command::Retire(address(old)));
            }
        }
        let added: HashSet<_> = staged
            .listeners
            .iter()
            .map(|(new, _)| address(new))
            .collect();
        for (hosting, sockets) in staged.listeners {
            for (worker, socket) in self.workers.iter().zip(sockets) {
                worker.send(Command::Serve(hosting.clone(), socket));
            }
        }
        for hosting in &staged.services {
            if !added.contains(&address(hosting)) {
                self.tell_all(|| Command::Replace(hosting.clone()));
            }
        }
        served.addresses.extend(wanted);
        served.services = staged.services;
    }
}

impl Served {
    /// Nothing, but there may be listeners at these addresses.
    pub(super) fn beside(addresses: impl Iterator<Item = SocketAddr>) -> Self {
        Self {
            addresses: addresses.collect(),
            ..Self::default()
        }
    }

    /// The number of a service, which it keeps.
    fn number(&mut self, name: &str) -> u16 {
        let known = self.names.iter().position(|known| known == name);
        let position = known.unwrap_or_else(|| {
            self.names.push(name.into());
            self.names.len() - 1
        });
        // After 65,536 names numbers begin again; services that share one share its clients.
        position as u16
    }
}
