//! From a configuration to attached programs. Everything that can be refused is asked before
//! anything is changed, and whatever fails undoes what came before it.

use std::{
    thread,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use aya::{Ebpf, programs::loaded_programs};
use xdp_common::abi::iface_slot;

use crate::{
    attach::Attachment,
    closing,
    config::Config,
    datapath::Datapath,
    kfunc::ASSIGN_TCP_REQSK,
    loader::Object,
    netlink::link::{Link, links},
    offer::{KernelOffer, Sysctls},
    pins::Pins,
    preflight::{self, Facts, Kernel},
    protection::Protection,
    running::{Programs, Running},
    secret::Secret,
    services::Pools,
    splicing::{self, Splicer, Splicing, hops::Finder},
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
    pins: Pins,
}

/// A data path in the kernel, attached to nothing.
#[derive(Debug)]
pub struct Loaded {
    /// The programs, and the maps that are not taken out.
    pub ebpf: Ebpf,
    offer: KernelOffer,
    prepared: Prepared,
    protection: Protection,
    adopted: bool,
}

/// Asks whether this machine can run levee as configured.
///
/// # Errors
/// Says what is missing, wrong or in the way.
pub fn prepare(config: Config) -> Result<Prepared> {
    let facts = Facts::gather()?;
    let kernel = facts.check()?;
    let mut all = links()?;
    let pins = Pins::claim(config.pin_dir.as_deref(), &all)?;
    for link in &mut all {
        link.xdp.retain(|id| !pins.replaces(*id));
    }
    let links = preflight::resolve(&config.interfaces, &all, program_name)?;
    let links = links.into_iter().cloned().collect();
    let secret = Secret::load_or_create(&config.secret_file)?;
    Ok(Prepared {
        config,
        kernel,
        kernel_release: facts.kernel_release,
        links,
        secret,
        pins,
    })
}

impl Prepared {
    /// Spliced connections that there has to be room for.
    fn flows(&self) -> u32 {
        let mut services = self.config.services.iter();
        match services.any(|service| service.splice().is_some()) {
            true => self.config.splice.flows_max,
            false => 0,
        }
    }

    /// The master secret.
    #[must_use]
    pub const fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Brings the data path into the kernel and tells it everything it needs, with `pools` behind
    /// services that are spliced. Takes some tenths of a second.
    ///
    /// # Errors
    /// Says what the kernel refuses.
    pub fn load(mut self, pools: &Pools) -> Result<Loaded> {
        log::info!(
            "kernel {} has what it takes: {} and tcx; loading the programs",
            self.kernel_release,
            ASSIGN_TCP_REQSK.name
        );
        let object = Object::new(self.kernel)?.with_flows(self.flows());
        let (mut ebpf, maps) = object.load(self.config.verify_syn_checksum, &self.pins)?;
        self.pins.pin_maps(&ebpf, &maps)?;
        let datapath = Datapath::take(&mut ebpf)?;
        let (secret, unix_s) = (self.secret.clone(), unix_s()?);
        let adopted = !maps.is_empty();
        let mut protection = if adopted {
            Protection::adopt(datapath, secret, unix_s, self.pins.claimed())?
        } else {
            Protection::start(datapath, secret, unix_s)?
        };
        if self.pins.has_foreign_maps() {
            log::warn!(
                "the data path before this one is of another version of levee: its programs are \
                 replaced, and all counters start at zero"
            );
        }
        thread::sleep(protection.grace_left(Instant::now()));
        let offer = offer(&self.links)?;
        protection.publish(&self.config.services, &offer, pools)?;
        Ok(Loaded {
            ebpf,
            offer,
            prepared: self,
            protection,
            adopted,
        })
    }
}

impl Loaded {
    /// Begins to splice connections, as was published with `pools`.
    ///
    /// # Errors
    /// Says what the kernel refuses.
    pub fn splice(&mut self, splicing: &mut Splicing, pools: &Pools) -> Result<(Splicer, Finder)> {
        splicing.start(splicing::start::Start {
            ebpf: &mut self.ebpf,
            protection: &mut self.protection,
            links: &self.prepared.links,
            secret: &self.prepared.secret,
            pools,
            offer: &self.offer,
        })
    }

    /// Attaches the programs to the interfaces, or puts them in the place of those of an earlier
    /// controller: from here on SYNs are answered. The programs stay as long as the result does, or
    /// longer, where they are pinned.
    ///
    /// # Errors
    /// Says what the kernel refuses; then nothing that was not there before is left attached.
    pub fn attach(mut self) -> Result<Running> {
        self.start_counters()?;
        // As TC before XDP on the interfaces themselves: nobody is to be answered who could not be
        // admitted.
        let mut vlans = Vlans::new(self.prepared.links.iter().map(|link| link.index));
        vlans.update(&mut self.ebpf, &mut self.prepared.pins, &links()?);
        let wanted = &self.prepared.config.interfaces;
        let attachments = self.prepared.links.iter().zip(wanted);
        let attachments = attachments
            .map(|(link, interface)| {
                let pins = &mut self.prepared.pins;
                Attachment::new(&mut self.ebpf, link, interface.attach, pins)
            })
            .collect::<Result<Vec<_>>>()?;
        self.prepared.pins.settle()?;
        let services = self.prepared.config.services.iter();
        // After attaching: whoever closes from now on is seen doing so.
        match closing::marks(&services.map(|service| service.address).collect()) {
            Ok(marks) => self.protection.note_closing(marks)?,
            Err(error) => log::warn!(
                "clients whose last connection is in TIME_WAIT cannot use its port again for a \
                 minute: {error:#}"
            ),
        }
        let programs = Programs {
            attachments,
            vlans,
            ebpf: self.ebpf,
            pins: self.prepared.pins,
            adopted: self.adopted,
        };
        Ok(Running::new(self.protection, programs, unix_s()?))
    }

    /// Of interfaces that an earlier controller was attached to, the counters go on.
    fn start_counters(&mut self) -> Result<()> {
        let Prepared { links, pins, .. } = &self.prepared;
        let new = links.iter().filter(|link| pins.mode(link.index).is_none());
        for link in new {
            self.protection.reset_iface(iface_slot(link.index))?;
        }
        Ok(())
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
