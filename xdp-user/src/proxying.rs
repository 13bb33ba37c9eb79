//! The proxy as the controller has it: there from the first service that needs it until the end.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::{sync::watch, time};

use crate::{
    backends,
    config::{ProxyGlobals, Service},
    proxy::{Proxy, Staged, runtime::ServiceRuntime},
    secret::Secret,
    shared::Shared,
    startup::Former,
    task::Task,
};

/// How long a start waits for the names of backends to be looked up. Later ones are used as soon
/// as they are there.
const RESOLVED_WITHIN: Duration = Duration::from_secs(5);

/// How often it looks meanwhile.
const RESOLVED_LOOK: Duration = Duration::from_millis(20);

/// The proxy's strings. Dropping it ends the tasks beside the proxy, and not the proxy.
#[derive(Debug)]
pub struct Proxying {
    shared: Arc<Shared>,
    secret: Secret,
    former: Former,
    beside: Option<Beside>,
}

/// What runs beside the proxy.
#[derive(Debug)]
struct Beside {
    services: watch::Sender<Vec<Arc<ServiceRuntime>>>,
    _backends: Task,
}

/// A change that can still be given up by dropping it.
#[derive(Debug)]
#[must_use]
pub struct Change(Inner);

#[derive(Debug)]
enum Inner {
    /// There is no proxy, and none is needed.
    None,
    /// Listens already, and is given up with its listeners.
    Start(Box<Proxy>, ProxyGlobals),
    Services(Staged),
}

impl Proxying {
    /// Without a proxy so far. Where a former levee is leaving, it may still listen where this one
    /// is to.
    #[must_use]
    pub const fn new(shared: Arc<Shared>, secret: Secret, former: Former) -> Self {
        Self {
            shared,
            secret,
            former,
            beside: None,
        }
    }

    /// Whether there is a proxy.
    #[must_use]
    pub const fn running(&self) -> bool {
        self.beside.is_some()
    }

    /// Prepares to serve those of `services` that are in `proxy` mode. `globals` are for a proxy
    /// that is not there yet.
    ///
    /// # Errors
    /// Fails when an address cannot be listened at; then nothing has changed.
    pub fn stage(&self, globals: &ProxyGlobals, services: &[Service]) -> Result<Change> {
        if let Some(proxy) = self.shared.proxy() {
            return Ok(Change(Inner::Services(proxy.stage(services)?)));
        }
        if services.iter().all(|service| service.proxy().is_none()) {
            return Ok(Change(Inner::None));
        }
        let proxy = Proxy::start(globals, services, &self.secret, self.former)?;
        Ok(Change(Inner::Start(Box::new(proxy), globals.clone())))
    }

    /// Serves what was staged.
    pub fn commit(&mut self, change: Change) {
        match change.0 {
            Inner::None => {}
            Inner::Start(proxy, globals) => self.start(Arc::new(*proxy), &globals),
            Inner::Services(staged) => {
                if let Some(proxy) = self.shared.proxy() {
                    proxy.commit(staged);
                    self.tell(&proxy);
                }
            }
        }
    }

    fn start(&mut self, proxy: Arc<Proxy>, globals: &ProxyGlobals) {
        let (services, watched) = watch::channel(proxy.services());
        let backends = backends::run(watched, globals.dns_server, proxy.started());
        self.beside = Some(Beside {
            services,
            _backends: Task::spawn(backends),
        });
        self.shared.set_proxy(proxy);
    }

    /// Tells those beside the proxy what is served now.
    fn tell(&self, proxy: &Proxy) {
        if let Some(beside) = &self.beside {
            beside.services.send_replace(proxy.services());
        }
    }

    /// Waits until the names of all backends have been looked up, but not for long.
    pub async fn resolved(&self) {
        let Some(proxy) = self.shared.proxy() else {
            return;
        };
        let services = proxy.services();
        let unresolved = || services.iter().flat_map(|service| unresolved(service));
        let end = Instant::now() + RESOLVED_WITHIN;
        while unresolved().next().is_some() && Instant::now() < end {
            time::sleep(RESOLVED_LOOK).await;
        }
        for name in unresolved() {
            log::warn!("backend {name} is not found yet: it is used as soon as its name is");
        }
    }
}

/// Names of the backends that were not found at the last look-up.
fn unresolved(service: &ServiceRuntime) -> impl Iterator<Item = &str> {
    let backends = service.config.backends.iter().zip(&service.resolved);
    let unresolved = backends.filter(|(_, resolved)| !resolved.load(Relaxed));
    unresolved.map(|(backend, _)| backend.name.as_str())
}
