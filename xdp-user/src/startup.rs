//! From a configuration to attached programs. Everything that can be refused is asked before
//! anything is changed, and whatever fails undoes what came before it.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use aya::{Ebpf, programs::loaded_programs};

use crate::{
    attach::Attachment,
    closing,
    config::Config,
    datapath::Datapath,
    kfunc::ASSIGN_TCP_REQSK,
    loader::Object,
    netlink::link::{Link, links},
    offer::{KernelOffer, Sysctls},
    preflight::{self, Facts, Kernel},
    protection::Protection,
    running::Running,
    secret::Secret,
    vlans::Vlans,
};

/// A machine that levee can run on, with what the configuration names on it.
#[derive(Debug)]
pub struct Prepared {
    config: Config,
    kernel: Kernel,
    kernel_release: String,
    links: Vec<Link>,
    secret: Secret,
}

/// A data path in the kernel, attached to nothing.
#[derive(Debug)]
pub struct Loaded {
    /// The programs, and the maps that are not taken out.
    pub ebpf: Ebpf,
    prepared: Prepared,
    protection: Protection,
}

/// Asks whether this machine can run levee as configured.
///
/// # Errors
/// Says what is missing, wrong or in the way.
pub fn prepare(config: Config) -> Result<Prepared> {
    let facts = Facts::gather()?;
    let kernel = facts.check()?;
    let all = links()?;
    let links = preflight::resolve(&config.interfaces, &all, program_name)?;
    let links = links.into_iter().cloned().collect();
    let secret = Secret::load_or_create(&config.secret_file)?;
    Ok(Prepared {
        config,
        kernel,
        kernel_release: facts.kernel_release,
        links,
        secret,
    })
}

impl Prepared {
    /// The master secret.
    #[must_use]
    pub const fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Brings the data path into the kernel and tells it everything it needs. Takes some tenths of
    /// a second.
    ///
    /// # Errors
    /// Says what the kernel refuses.
    pub fn load(self) -> Result<Loaded> {
        log::info!(
            "kernel {} has what it takes: {} and tcx; loading the programs",
            self.kernel_release,
            ASSIGN_TCP_REQSK.name
        );
        let object = Object::new(self.kernel)?;
        let mut ebpf = object.load(self.config.verify_syn_checksum)?;
        let datapath = Datapath::take(&mut ebpf)?;
        let mut protection = Protection::start(datapath, self.secret.clone(), unix_s()?)?;
        protection.publish(&self.config.services, &offer(&self.links)?)?;
        Ok(Loaded {
            ebpf,
            prepared: self,
            protection,
        })
    }
}

impl Loaded {
    /// Attaches the programs to the interfaces: from here on SYNs are answered. The programs stay
    /// as long as the result does.
    ///
    /// # Errors
    /// Says what the kernel refuses; then none is left attached.
    pub fn attach(mut self) -> Result<Running> {
        // As TC before XDP on the interfaces themselves: nobody is to be answered who could not be
        // admitted.
        let mut vlans = Vlans::new(self.prepared.links.iter().map(|link| link.index));
        vlans.update(&mut self.ebpf, &links()?);
        let wanted = &self.prepared.config.interfaces;
        let attachments = self.prepared.links.iter().zip(wanted);
        let attachments = attachments
            .map(|(link, interface)| Attachment::new(&mut self.ebpf, link, interface.attach))
            .collect::<Result<Vec<_>>>()?;
        let services = self.prepared.config.services.iter();
        // After attaching: whoever closes from now on is seen doing so.
        match closing::marks(&services.map(|service| service.address).collect()) {
            Ok(marks) => self.protection.note_closing(&marks)?,
            Err(error) => log::warn!(
                "clients whose last connection is in TIME_WAIT cannot use its port again for a \
                 minute: {error:#}"
            ),
        }
        Ok(Running::new(
            self.protection,
            self.ebpf,
            attachments,
            vlans,
            unix_s()?,
        ))
    }
}

/// What SYN-ACKs may offer on these interfaces, by the kernel's settings now.
///
/// # Errors
/// Fails when the settings cannot be read.
pub fn offer<'a>(links: impl IntoIterator<Item = &'a Link>) -> Result<KernelOffer> {
    let mtu = links.into_iter().map(|link| link.mtu).min();
    let mtu = mtu.context("no interface")?;
    Ok(KernelOffer::new(&Sysctls::read()?, mtu))
}

/// The time, in seconds since the Unix epoch.
///
/// # Errors
/// Fails when the clock is set before that.
pub fn unix_s() -> Result<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(since
        .context("the system clock is set before 1970; set it right")?
        .as_secs())
}

fn program_name(id: u32) -> Option<String> {
    let program = loaded_programs().flatten().find(|info| info.id() == id)?;
    let name = program.name_as_str()?;
    (!name.is_empty()).then(|| name.into())
}
