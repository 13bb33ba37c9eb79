//! Reading the configuration again while levee runs: services change at once, everything else is
//! named as needing a restart.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tokio::time;

use crate::{
    config::{Config, Service},
    ctl::Reloaded,
    netlink::link::links,
    offer::KernelOffer,
    proxying::Proxying,
    running::Running,
    shared::Shared,
    splicing::{self, Splicing},
    startup, warnings,
};

/// Does the reloads, one after the other.
#[derive(Debug)]
pub struct Reloader {
    /// What is in force: the services of the last reload, everything else as at the start.
    config: Config,
    file: Option<PathBuf>,
    shared: Arc<Shared>,
    proxying: Proxying,
    /// `None` when no service was spliced at the start.
    splicing: Option<Splicing>,
}

/// What a reload changes besides the data path.
#[derive(Debug)]
pub struct Strings {
    /// Of the proxy.
    pub proxying: Proxying,
    /// Of spliced services; `None` when there were none at the start.
    pub splicing: Option<Splicing>,
}

impl Reloader {
    /// `config` is in force and came from `file`; `None` for the command line.
    #[must_use]
    pub fn new(
        config: Config,
        file: Option<PathBuf>,
        shared: Arc<Shared>,
        strings: Strings,
    ) -> Self {
        let Strings { proxying, splicing } = strings;
        Self {
            config,
            file,
            shared,
            proxying,
            splicing,
        }
    }

    /// How long connections of the proxy may go on when levee stops.
    #[must_use]
    pub const fn drain_timeout(&self) -> Duration {
        self.config.proxy.drain_timeout
    }

    /// Reads the configuration, and what the kernel offers, and makes its services the protected
    /// ones. The outcome is logged and shows in the metrics.
    ///
    /// # Errors
    /// Says what is wrong; the configuration before it then stays in force.
    pub async fn reload(&mut self) -> Result<Reloaded> {
        let result = self.attempt().await;
        match &result {
            Ok(reloaded) => {
                report(reloaded);
                warnings::log_all(&self.config);
            }
            Err(error) => {
                log::error!("reload failed, the configuration before it stays in force: {error:#}");
            }
        }
        let now = startup::unix_s();
        self.shared.with(|running| {
            running.reload.successful = result.is_ok();
            if let (Ok(_), Ok(unix_s)) = (&result, now) {
                running.reload.succeeded_unix_s = unix_s;
            }
        });
        result
    }

    async fn attempt(&mut self) -> Result<Reloaded> {
        let file = self.file.as_ref().context(
            "levee was started without a configuration file: there is nothing to read again. \
             Restart it with other flags, or with --config",
        )?;
        let config = Config::read(file)?;
        if self.splicing.is_none() {
            splicing::refuse(&config.services)?;
        }
        let offer = self.offer()?;
        if !self.proxying.running() {
            self.config.proxy.clone_from(&config.proxy);
        }
        // Listens before the first client of a new service is admitted.
        let change = self.proxying.stage(&config.proxy, &config.services)?;
        self.stage_spliced(&config.services);
        if let Err(error) = self.publish_all(&config.services, &offer).await {
            self.stage_spliced(&self.config.services.clone());
            return Err(error);
        }
        self.proxying.commit(change);
        self.shared.watch(&config.services);
        let reloaded = compare(&self.config, &config);
        self.config.services = config.services;
        Ok(reloaded)
    }

    /// Makes the services of a configuration the protected services, and those that have spliced
    /// connections left.
    async fn publish_all(&mut self, configured: &[Service], offer: &KernelOffer) -> Result<()> {
        let services = self.with_retired(configured);
        if !self.with(|running| running.protection.fits(&services))? {
            // Between the two steps, services that are new are not protected yet; those that stay
            // always are.
            let kept = kept(&self.config.services, configured);
            self.publish(&self.with_retired(&kept), offer).await?;
        }
        self.publish(&services, offer).await
    }

    /// Makes these the protected services, once the change before has settled.
    async fn publish(&mut self, services: &[Service], offer: &KernelOffer) -> Result<()> {
        let left = self.with(|running| running.protection.grace_left(Instant::now()))?;
        time::sleep(left).await;
        self.publish_now(services, offer)
    }

    fn publish_now(&mut self, services: &[Service], offer: &KernelOffer) -> Result<()> {
        let usage = self.shared.splice().map(|s| Arc::clone(s.thread.usage()));
        let pools = self.splicing.as_ref().map(|s| s.pools(usage.as_deref()));
        let pools = pools.unwrap_or_default();
        let splicing = &mut self.splicing;
        let published = self.shared.with(|running| {
            let protection = &mut running.protection;
            protection.publish(services, offer, &pools)?;
            if let Some(splicing) = splicing {
                splicing.announce(protection, offer, &pools);
            }
            Ok(())
        });
        published.context("levee is stopping")?
    }

    fn with_retired(&self, configured: &[Service]) -> Vec<Service> {
        let splicing = self.splicing.as_ref();
        splicing.map_or_else(|| configured.to_vec(), |s| s.with_retired(configured))
    }

    fn stage_spliced(&mut self, services: &[Service]) {
        if let Some(splicing) = &mut self.splicing {
            let staged = splicing.stage(services);
            splicing.commit(staged);
        }
    }

    /// Tells splice thread and data path what has changed of the services that are spliced:
    /// addresses of their backends, what these agree to, and that the last connection of one that
    /// was removed is gone. To be called once a second.
    pub fn tick(&mut self) {
        if let Err(error) = self.attend_to_spliced() {
            log::error!("cannot keep spliced services up to date: {error:#}");
        }
    }

    fn attend_to_spliced(&mut self) -> Result<()> {
        let (Some(splicing), Some(splicer)) = (&mut self.splicing, self.shared.splice()) else {
            return Ok(());
        };
        let proven = splicer.spliced.proven();
        let counted = self.shared.with(|running| running.spliced = proven);
        counted.context("levee is stopping")?;
        let usage = splicer.thread.usage();
        splicing.drop_ended(usage);
        let pools = splicing.pools(Some(usage));
        let wanted = splicing.with_retired(&self.config.services);
        let due = self.with(|running| {
            let protection = &running.protection;
            let settled = protection.grace_left(Instant::now()).is_zero();
            let ended = protection.services().len() != wanted.len();
            settled && (ended || protection.differs_from(&pools))
        })?;
        if due {
            let offer = self.offer()?;
            self.publish_now(&wanted, &offer)?;
        }
        Ok(())
    }

    fn with<T>(&self, f: impl FnOnce(&mut Running) -> T) -> Result<T> {
        self.shared.with(f).context("levee is stopping")
    }

    /// What the kernel offers now, on the interfaces levee is attached to as far as they exist.
    fn offer(&self) -> Result<KernelOffer> {
        let attached: HashSet<u32> =
            self.with(|running| running.attachments().map(|a| a.link.index).collect())?;
        let links = links()?;
        startup::offer(links.iter().filter(|link| attached.contains(&link.index)))
    }
}

fn report(reloaded: &Reloaded) {
    log::info!(
        "configuration reloaded: {} service(s), {} added, {} removed",
        reloaded.services,
        reloaded.added.len(),
        reloaded.removed.len()
    );
    if !reloaded.needs_restart.is_empty() {
        log::warn!(
            "these settings changed and need a restart of levee: {}",
            reloaded.needs_restart.join(", ")
        );
    }
}

/// The services of `new` that `old` protects as well.
fn kept(old: &[Service], new: &[Service]) -> Vec<Service> {
    let old: HashSet<_> = old.iter().map(|service| service.address).collect();
    let kept = new.iter().filter(|service| old.contains(&service.address));
    kept.cloned().collect()
}

/// What the change from `old` to `new` does.
fn compare(old: &Config, new: &Config) -> Reloaded {
    let missing_in = |these: &[Service], those: &[Service]| -> Vec<String> {
        let those: HashSet<_> = those.iter().map(|service| service.address).collect();
        let missing = these.iter().filter(|s| !those.contains(&s.address));
        missing.map(|service| service.name.clone()).collect()
    };
    let settings = [
        ("secret_file", old.secret_file != new.secret_file),
        ("control_socket", old.control_socket != new.control_socket),
        ("pin_dir", old.pin_dir != new.pin_dir),
        (
            "verify_syn_checksum",
            old.verify_syn_checksum != new.verify_syn_checksum,
        ),
        ("metrics.listen", old.metrics_listen != new.metrics_listen),
        ("interface", old.interfaces != new.interfaces),
        ("proxy", old.proxy != new.proxy),
        ("splice", old.splice != new.splice),
    ];
    let changed = settings.into_iter().filter(|(_, changed)| *changed);
    Reloaded {
        services: new.services.len(),
        added: missing_in(&new.services, &old.services),
        removed: missing_in(&old.services, &new.services),
        needs_restart: changed.map(|(name, _)| name.into()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Attach, Flags},
        secret::Secret,
        startup::Former,
    };

    fn config(services: &[&str]) -> Config {
        let flags = Flags {
            interfaces: vec!["eth0".into()],
            protect: services.iter().map(|s| (*s).into()).collect(),
            ..Flags::default()
        };
        flags.into_config().unwrap()
    }

    #[test]
    fn services_are_compared_by_address() {
        let old = config(&["192.0.2.1:80", "192.0.2.1:443"]);
        let mut new = config(&["192.0.2.1:443", "192.0.2.2:80", "192.0.2.3:80"]);
        new.services[0].name = "renamed".into();
        let reloaded = compare(&old, &new);
        assert_eq!(reloaded.services, 3);
        assert_eq!(reloaded.added, ["192.0.2.2:80", "192.0.2.3:80"]);
        assert_eq!(reloaded.removed, ["192.0.2.1:80"]);
        assert!(reloaded.needs_restart.is_empty());
    }

    #[test]
    fn everything_else_needs_a_restart() {
        let old = config(&["192.0.2.1:80"]);
        let mut new = old.clone();
        new.secret_file = "/a".into();
        new.control_socket = "/b".into();
        new.pin_dir = None;
        new.verify_syn_checksum = false;
        new.metrics_listen = None;
        new.interfaces[0].attach = Attach::Generic;
        new.proxy.pipes_max = 0;
        new.splice.flows_max = 64;
        let all = [
            "secret_file",
            "control_socket",
            "pin_dir",
            "verify_syn_checksum",
            "metrics.listen",
            "interface",
            "proxy",
            "splice",
        ];
        assert_eq!(compare(&old, &new).needs_restart, all);
    }

    #[tokio::test]
    async fn flags_cannot_be_read_again() {
        let shared = Arc::new(Shared::new());
        let proxying = Proxying::new(Arc::clone(&shared), Secret::new([0; 32]), Former::Dead);
        let strings = Strings {
            proxying,
            splicing: None,
        };
        let mut reloader = Reloader::new(config(&["192.0.2.1:80"]), None, shared, strings);
        let error = reloader.reload().await.unwrap_err().to_string();
        assert!(error.contains("without a configuration file"), "{error}");
    }
}
