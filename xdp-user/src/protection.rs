//! What the data path is told while it runs: services, keys and the clock. Holds the controller's
//! copy of all of it, so that only differences are written.

mod splice;

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use xdp_common::{
    abi::{ClosingMarks, Control, SERVICES_MAX},
    closing,
    splice::flow::{Hop, TARGETS_MAX},
};

use crate::{
    config::Service,
    datapath::{Datapath, Packets},
    keys::{self, KeyState, Schedule},
    learned::Agreed,
    offer::KernelOffer,
    secret::Secret,
    services::{self, Ids, Pools, Table, Targets},
};

/// How long a generation of the service table is left alone after another became live.
///
/// A program that looked up the old one may still be running. It does so for microseconds, with
/// preemption disabled; a virtual machine may be stopped for longer than that in between, which a
/// second is to cover.
pub const GRACE: Duration = Duration::from_secs(1);

/// What the data path's clock starts at: 0 is "never" where it notes when it last logged something.
const CLOCK_START_S: u32 = 1;

/// A running data path, as far as it is told what to do.
#[derive(Debug)]
pub struct Protection {
    datapath: Datapath,
    control: Control,
    secret: Secret,
    table: Table,
    ids: Ids,
    services: Vec<Protected>,
    targets: Targets,
    /// What is written in `TARGETS`, by address: slot and way.
    ways: BTreeMap<SocketAddr, (u16, Hop)>,
    agreed: HashMap<SocketAddr, Agreed>,
    flipped: Option<Instant>,
    epoch: u64,
    /// The data path's clock less the controller's, seconds; known since the first tick.
    clock_offset_s: Option<u32>,
    /// The generation of closing connections that was cleared last.
    cleared: Option<u32>,
}

/// A service that is live in the data path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protected {
    /// Its name: the metric label.
    pub name: String,
    /// Where clients connect to.
    pub address: SocketAddr,
    /// Its slot in `SERVICE_STATS`.
    id: u16,
}

impl Protection {
    /// Puts the first keys in force; `unix_s` is the time in seconds since the Unix epoch.
    ///
    /// # Errors
    /// Fails when the kernel refuses a write.
    pub fn start(mut datapath: Datapath, secret: Secret, unix_s: u64) -> Result<Self> {
        let schedule = Schedule::at(unix_s);
        let KeyState { keys, slot, epoch } = schedule.state(&secret);
        let control = Control {
            keys,
            seeds: [0, 0],
            generation: 0,
            key_slot: slot,
            epoch,
            clock_s: CLOCK_START_S,
            flow_seed: 0,
            flow_mask: 0,
            stopping: 0,
        };
        datapath.set_control(&control)?;
        Ok(Self {
            datapath,
            control,
            secret,
            table: Table::default(),
            ids: Ids::default(),
            services: Vec::new(),
            targets: Targets::default(),
            ways: BTreeMap::new(),
            agreed: HashMap::new(),
            flipped: None,
            epoch: schedule.current,
            clock_offset_s: None,
            cleared: None,
        })
    }

    /// Goes on with a data path that an earlier controller told what to do, last at `written`;
    /// `unix_s` is the time in seconds since the Unix epoch. What it holds stays in force until the
    /// first [`tick`](Self::tick) and the next [`publish`](Self::publish); only where its keys are
    /// out of date, new cookies are made with one of now from here on. Those made before are
    /// accepted until the tick.
    ///
    /// # Errors
    /// Fails when the kernel refuses a read or a write.
    pub fn adopt(
        datapath: Datapath,
        secret: Secret,
        unix_s: u64,
        written: Instant,
    ) -> Result<Self> {
        let control = Control {
            stopping: 0,
            ..datapath.control()?
        };
        let table = Table::adopted(datapath.buckets()?, control.seeds, control.generation);
        let mut protection = Self {
            datapath,
            control,
            secret,
            ids: Ids::adopted(table.services().collect()),
            table,
            services: Vec::new(),
            targets: Targets::default(),
            ways: BTreeMap::new(),
            agreed: HashMap::new(),
            flipped: Some(written),
            epoch: control.epoch.into(),
            clock_offset_s: None,
            cleared: None,
        };
        protection.adopt_targets()?;
        let wanted = Schedule::at(unix_s).state(&protection.secret);
        let in_use = protection.held().current();
        for step in keys::steps(protection.held(), wanted) {
            if !step.keys.contains(&in_use) {
                // Who has a cookie of that key may come back within the grace period.
                protection.flipped = Some(Instant::now());
                break;
            }
            protection.hold(step)?;
        }
        Ok(protection)
    }

    /// Puts the keys of the time in force, and the data path's clock forward, by what `uptime_s` has
    /// grown since the first call: it makes it forget connections that closed long ago. To be called
    /// once a second. True when a new epoch began.
    ///
    /// # Errors
    /// Fails when the kernel refuses a write.
    pub fn tick(&mut self, unix_s: u64, uptime_s: u32) -> Result<bool> {
        let held_s = self.control.clock_s;
        let offset_s = self
            .clock_offset_s
            .get_or_insert(held_s.wrapping_sub(uptime_s));
        self.control.clock_s = uptime_s.wrapping_add(*offset_s);
        self.datapath.set_control(&self.control)?;
        self.forget_closed(self.control.clock_s)?;
        let schedule = Schedule::at(unix_s);
        for step in keys::steps(self.held(), schedule.state(&self.secret)) {
            self.hold(step)?;
        }
        let began = self.epoch != schedule.current;
        self.epoch = schedule.current;
        Ok(began)
    }

    /// Leaves all to the kernel from now on but spliced connections, and clients that were answered.
    ///
    /// # Errors
    /// Fails when the kernel refuses the write.
    pub fn stop(&mut self) -> Result<()> {
        self.control.stopping = 1;
        self.datapath.set_control(&self.control)
    }

    /// The keys in the data path.
    const fn held(&self) -> KeyState {
        KeyState {
            keys: self.control.keys,
            slot: self.control.key_slot,
            epoch: self.control.epoch,
        }
    }

    fn hold(&mut self, keys: KeyState) -> Result<()> {
        self.control.keys = keys.keys;
        self.control.key_slot = keys.slot;
        self.control.epoch = keys.epoch;
        self.datapath.set_control(&self.control)
    }

    /// Tells the data path of connections that are in TIME_WAIT, at the start: besides those that it
    /// knows, in the generation before the current one, to which nobody else writes.
    ///
    /// # Errors
    /// Fails when the kernel refuses a read or a write.
    pub fn note_closing(&mut self, mut marks: Box<ClosingMarks>) -> Result<()> {
        let generation = closing::previous(self.control.clock_s);
        let known = self.datapath.closing(generation)?;
        for (word, known) in marks.words.iter_mut().zip(known.words) {
            *word |= known;
        }
        self.datapath.set_closing(generation, &marks)
    }

    /// Starts the counters of an interface at zero, by its slot.
    ///
    /// # Errors
    /// Fails when the kernel refuses the write.
    pub fn reset_iface(&mut self, slot: u32) -> Result<()> {
        self.datapath.reset_iface(slot)
    }

    /// Clears the next generation of closing connections as soon as it is the next one: a generation
    /// before its time. Were this too late, old marks would count once more.
    fn forget_closed(&mut self, clock_s: u32) -> Result<()> {
        let next = closing::next(clock_s);
        if self.cleared != Some(next) {
            static NONE: ClosingMarks = ClosingMarks {
                words: [0; closing::WORDS],
            };
            self.datapath.set_closing(next, &NONE)?;
            self.cleared = Some(next);
        }
        Ok(())
    }

    /// What is left of [`GRACE`] at `now`: [`publish`](Self::publish) has to wait as long.
    #[must_use]
    pub fn grace_left(&self, now: Instant) -> Duration {
        self.flipped.map_or(Duration::ZERO, |flipped| {
            GRACE.saturating_sub(now.saturating_duration_since(flipped))
        })
    }

    /// Whether there are enough free counters to [`publish`](Self::publish) these services in one
    /// step. If not, publish first those of them that are protected already: that frees the rest.
    #[must_use]
    pub fn fits(&self, services: &[Service]) -> bool {
        let addresses = services.iter().map(|service| service.address);
        self.ids.assign(addresses).is_some()
    }

    /// Makes `services` the protected services, all at once, with `pools` behind those that are
    /// spliced. Those that were protected before keep their counters, and targets their slots.
    ///
    /// # Errors
    /// Fails when they do not [fit](Self::fits), or the kernel refuses a write; the services protected before
    /// then still are.
    pub fn publish(
        &mut self,
        services: &[Service],
        offer: &KernelOffer,
        pools: &Pools,
    ) -> Result<()> {
        let assignment = self
            .ids
            .assign(services.iter().map(|service| service.address))
            .with_context(|| {
                format!("the services before and after together are more than {SERVICES_MAX}")
            })?;
        let targets = self.plan_targets(pools);
        if !targets.left_out.is_empty() {
            log::warn!(
                "{} addresses of backends are not used, allowed: {TARGETS_MAX} in all",
                targets.left_out.len()
            );
        }
        let spliced = services::Spliced {
            agreed: pools.agreed.clone(),
            targets: targets.slots.clone(),
        };
        let entries = services::entries(services, &assignment.ids, offer, &spliced);
        let plan = self.table.plan(&entries)?;
        for id in &assignment.fresh {
            self.datapath.reset_service(*id)?;
        }
        // Before the entries that lead there.
        self.write_spliced(services, &assignment.ids)?;
        self.write_targets(&spliced.targets)?;
        for write in &plan.writes {
            self.datapath.set_bucket(write)?;
            self.table.written(write);
        }
        self.table.flipped(&plan);
        // First the seed of the generation that nobody reads yet, then the flip.
        self.control.seeds = self.table.seeds();
        self.datapath.set_control(&self.control)?;
        self.control.generation = self.table.live();
        self.datapath.set_control(&self.control)?;
        self.flipped = Some(Instant::now());
        self.services = protected(services, &assignment.ids);
        self.ids.commit(assignment);
        self.targets.commit(targets);
        self.agreed.clone_from(&pools.agreed);
        Ok(())
    }

    /// The services that are protected now.
    #[must_use]
    pub fn services(&self) -> &[Protected] {
        &self.services
    }

    /// The packets counted for a service.
    ///
    /// # Errors
    /// Fails when the kernel refuses to tell.
    pub fn packets(&self, service: &Protected) -> Result<Packets> {
        self.datapath.service_packets(service.id)
    }

    /// The number of the epoch whose key makes the cookies now.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The maps.
    #[must_use]
    pub const fn datapath(&self) -> &Datapath {
        &self.datapath
    }
}

fn protected(services: &[Service], ids: &[u16]) -> Vec<Protected> {
    services
        .iter()
        .zip(ids)
        .map(|(service, &id)| Protected {
            name: service.name.clone(),
            address: service.address,
            id,
        })
        .collect()
}
