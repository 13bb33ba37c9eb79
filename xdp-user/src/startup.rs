//! From a configuration to attached programs. Everything that can be refused is asked before
//! anything is changed, and whatever fails undoes what came before it.

use std::{
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
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
    pins::{Adopted, Pins},
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

/// A data path in the kernel, attached to nothing, and told nothing.
#[derive(Debug)]
pub struct Loaded {
    /// The programs and the maps.
    pub ebpf: Ebpf,
    maps: Adopted,
    prepared: Prepared,
}

/// A data path that knows all it needs, attached to nothing.
#[derive(Debug)]
pub struct Told {
    ebpf: Ebpf,
    offer: KernelOffer,
    prepared: Prepared,
    protection: Protection,
    adopted: bool,
}

/// Who may have attached a data path before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Former {
    /// Nobody, or a levee that has died.
    Dead,
    /// A levee that runs, and leaves before this one attaches its own.
    Leaving,
}

/// How long a levee that has said that it leaves may take for it.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks whether this machine can run levee as configured.
///
/// # Errors
/// Says what is missing, wrong or in the way.
pub fn prepare(config: Config, former: Former) -> Result<Prepared> {
    let facts = Facts::gather()?;
    let kernel = facts.check()?;
    let mut all = links()?;
    let mut pins = Pins::find(config.pin_dir.as_deref(), &all)?;
    if former == Former::Dead {
        pins.claim(Duration::ZERO)?;
    }
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

    /// Brings the data path into the kernel. Takes some tenths of a second. Changes nothing that
    /// another levee uses.
    ///
    /// # Errors
    /// Says what the kernel refuses.
    pub fn load(self) -> Result<Loaded> {
        log::info!(
            "kernel {} has what it takes: {} and tcx; loading the programs",
            self.kernel_release,
            ASSIGN_TCP_REQSK.name
        );
        let object = Object::new(self.kernel)?.with_flows(self.flows());
        let (ebpf, maps) = object.load(self.config.verify_syn_checksum, &self.pins)?;
        Ok(Loaded {
            ebpf,
            maps,
            prepared: self,
        })
    }
}

impl Loaded {
    /// Pins the maps and tells the data path everything it needs, or what differs from what an
    /// earlier controller has told it, with `pools` behind services that are spliced. Takes up to a
    /// second where there was one.
    ///
    /// # Errors
    /// Says what the kernel refuses.
    pub fn tell(mut self, pools: &Pools) -> Result<Told> {
        let pins = &mut self.prepared.pins;
        pins.claim(LEAVE_TIMEOUT)?;
        pins.pin_maps(&self.ebpf, &self.maps)?;
        if pins.has_foreign_maps() {
            log::warn!(
                "the data path before this one is of another version of levee: its programs are \
                 replaced, and all counters start at zero"
            );
        }
        let datapath = Datapath::take(&mut self.ebpf)?;
        let (secret, unix_s) = (self.prepared.secret.clone(), unix_s()?);
        let adopted = !self.maps.is_empty();
        let mut protection = if adopted {
            Protection::adopt(datapath, secret, unix_s, pins.claimed())?
        } else {
            Protection::start(datapath, secret, unix_s)?
        };
        thread::sleep(protection.grace_left(Instant::now()));
        let Prepared { config, links, .. } = &self.prepared;
        let offer = offer(links)?;
        protection.publish(&config.services, &offer, pools)?;
        // Of interfaces that an earlier controller was attached to, the counters go on.
        let pins = &self.prepared.pins;
        let new = links.iter().filter(|link| pins.mode(link.index).is_none());
        for link in new {
            protection.reset_iface(iface_slot(link.index))?;
        }
        Ok(Told {
            ebpf: self.ebpf,
            offer,
            prepared: self.prepared,
            protection,
            adopted,
        })
    }
}

impl Told {
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
        let Prepared {
            config,
            links: interfaces,
            mut pins,
            ..
        } = self.prepared;
        // As TC before XDP on the interfaces themselves: nobody is to be answered who could not be
        // admitted.
        let mut vlans = Vlans::new(interfaces.iter().map(|link| link.index));
        vlans.update(&mut self.ebpf, &mut pins, &links()?);
        let wanted = interfaces.iter().zip(&config.interfaces);
        let attachments = wanted.map(|(link, interface)| {
            Attachment::new(&mut self.ebpf, link, interface.attach, &mut pins)
        });
        let attachments = attachments.collect::<Result<Vec<_>>>()?;
        pins.settle()?;
        let services = config.services.iter();
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
            pins,
            adopted: self.adopted,
        };
        Ok(Running::new(self.protection, programs, unix_s()?))
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
