//! Typed access to the data path's maps. The only module that knows which map is of which type.

use std::fmt;

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use xdp_common::{
    abi::{COUNTERS, ClosingMarks, Control, Counters, FragmentKey, ServiceBucket, names},
    splice::flow::{Spliced, Target},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::services::BucketWrite;

/// Packets by slot, summed over the CPUs.
pub type Packets = [u64; COUNTERS];

/// The maps of a loaded data path.
pub struct Datapath {
    control: Array<MapData, Wire<Control>>,
    services: Array<MapData, Wire<ServiceBucket>>,
    iface_stats: PerCpuArray<MapData, Wire<Counters>>,
    service_stats: PerCpuArray<MapData, Wire<Counters>>,
    closing: Array<MapData, Wire<ClosingMarks>>,
    fragments: HashMap<MapData, Wire<FragmentKey>, u32>,
    targets: Array<MapData, Wire<Target>>,
    spliced: Array<MapData, Wire<Spliced>>,
}

/// A value of the shared ABI as aya takes it.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
struct Wire<T>(T);

// SAFETY: zerocopy's traits prove what `Pod` asks for: any bytes are a valid `T`, and `T` has no
// padding, no interior mutability and, with `'static`, no references. `Wire` is transparent.
unsafe impl<T: FromBytes + IntoBytes + Immutable + Copy + 'static> Pod for Wire<T> {}

impl fmt::Debug for Datapath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datapath").finish_non_exhaustive()
    }
}

impl Datapath {
    /// Takes the maps out of a loaded object.
    ///
    /// # Errors
    /// Names the map that is missing or of another type, key or value size.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            control: take(ebpf, names::CONTROL)?,
            services: take(ebpf, names::SERVICES)?,
            iface_stats: take(ebpf, names::IFACE_STATS)?,
            service_stats: take(ebpf, names::SERVICE_STATS)?,
            closing: take(ebpf, names::CLOSING)?,
            fragments: take(ebpf, names::FRAGMENTS)?,
            targets: take(ebpf, names::TARGETS)?,
            spliced: take(ebpf, names::SPLICED)?,
        })
    }

    /// What the programs are told at run time.
    ///
    /// # Errors
    /// Fails when the kernel refuses, which it does not for a map of this type.
    pub fn control(&self) -> Result<Control> {
        let control = self.control.get(&0, 0);
        Ok(control.context("cannot read the map CONTROL")?.0)
    }

    /// Writes what the programs are told at run time.
    ///
    /// # Errors
    /// Fails when the kernel refuses, which it does not for a map of this type.
    pub fn set_control(&mut self, control: &Control) -> Result<()> {
        self.control
            .set(0, Wire(*control), 0)
            .context("cannot write the map CONTROL")
    }

    /// The buckets of both generations of the service table.
    ///
    /// # Errors
    /// As [`set_control`](Self::set_control).
    pub fn buckets(&self) -> Result<Vec<ServiceBucket>> {
        let buckets = self.services.iter().map(|bucket| Ok(bucket?.0));
        let buckets: Result<_, MapError> = buckets.collect();
        buckets.context("cannot read the map SERVICES")
    }

    /// Writes one bucket of the service table.
    ///
    /// # Errors
    /// As [`set_control`](Self::set_control).
    pub fn set_bucket(&mut self, write: &BucketWrite) -> Result<()> {
        self.services
            .set(write.index, Wire(write.bucket), 0)
            .with_context(|| format!("cannot write bucket {} of the map SERVICES", write.index))
    }

    /// A generation of the marks of closing connections.
    ///
    /// # Errors
    /// As [`set_control`](Self::set_control).
    pub fn closing(&self, generation: u32) -> Result<ClosingMarks> {
        let marks = self.closing.get(&generation, 0);
        let unread = || format!("cannot read generation {generation} of the map CLOSING");
        Ok(marks.with_context(unread)?.0)
    }

    /// Replaces a generation of the marks of closing connections.
    ///
    /// # Errors
    /// As [`set_control`](Self::set_control).
    pub fn set_closing(&mut self, generation: u32, marks: &ClosingMarks) -> Result<()> {
        self.closing
            .set(generation, Wire(*marks), 0)
            .with_context(|| format!("cannot write generation {generation} of the map CLOSING"))
    }

    /// Writes a target into its slot.
    ///
    /// # Errors
    /// As [`set_control`](Self::set_control).
    pub fn set_target(&mut self, slot: u16, target: &Target) -> Result<()> {
        self.targets
            .set(slot.into(), Wire(*target), 0)
            .with_context(|| format!("cannot write target {slot} of the map TARGETS"))
    }

    /// The targets, by slot; free ones included.
    ///
    /// # Errors
    /// As [`set_control`](Self::set_control).
    pub fn targets(&self) -> Result<Vec<Target>> {
        let targets = self.targets.iter().map(|target| Ok(target?.0));
        let targets: Result<_, MapError> = targets.collect();
        targets.context("cannot read the map TARGETS")
    }

    /// Writes what the data path has to know of a spliced service.
    ///
    /// # Errors
    /// As [`set_control`](Self::set_control).
    pub fn set_spliced(&mut self, id: u16, spliced: &Spliced) -> Result<()> {
        self.spliced
            .set(id.into(), Wire(*spliced), 0)
            .with_context(|| format!("cannot write service {id} of the map SPLICED"))
    }

    /// Starts the counters of a service at zero.
    ///
    /// # Errors
    /// As [`set_control`](Self::set_control).
    pub fn reset_service(&mut self, id: u16) -> Result<()> {
        self.service_stats
            .set(id.into(), zero()?, 0)
            .with_context(|| format!("cannot reset the counters of service {id}"))
    }

    /// Starts the counters of an interface at zero, by its slot.
    ///
    /// # Errors
    /// As [`set_control`](Self::set_control).
    pub fn reset_iface(&mut self, slot: u32) -> Result<()> {
        self.iface_stats
            .set(slot, zero()?, 0)
            .with_context(|| format!("cannot reset the counters of interface slot {slot}"))
    }

    /// The packets of an interface, by its slot.
    ///
    /// # Errors
    /// As [`set_control`](Self::set_control).
    pub fn iface_packets(&self, slot: u32) -> Result<Packets> {
        sum(&self.iface_stats, slot)
    }

    /// The packets of a service, by its id.
    ///
    /// # Errors
    /// As [`set_control`](Self::set_control).
    pub fn service_packets(&self, id: u16) -> Result<Packets> {
        sum(&self.service_stats, id.into())
    }

    /// Admitted fragmented datagrams remembered now, at most `max`. Walks the table: about a
    /// microsecond per entry.
    #[must_use]
    pub fn fragments(&self, max: u32) -> u32 {
        // The data path changes the table meanwhile, so that a walk may fail or start over: the
        // bound ends it, and an approximate count is all that is asked for.
        let keys = self.fragments.keys().take(max as usize);
        keys.filter(Result::is_ok).count() as u32
    }
}

fn take<T>(ebpf: &mut Ebpf, name: &str) -> Result<T>
where
    T: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).with_context(|| {
        format!("the eBPF object has no map {name}: was it built from this source?")
    })?;
    T::try_from(map).with_context(|| format!("the map {name} is not what levee expects"))
}

/// Counters at zero, on each CPU.
fn zero() -> Result<PerCpuValues<Wire<Counters>>> {
    let cpus = nr_cpus().map_err(|(file, error)| {
        anyhow::Error::from(error).context(format!("cannot read {file}"))
    })?;
    let zero = Wire(Counters {
        packets: [0; COUNTERS],
    });
    Ok(PerCpuValues::try_from(vec![zero; cpus])?)
}

fn sum(map: &PerCpuArray<MapData, Wire<Counters>>, index: u32) -> Result<Packets> {
    let values = map
        .get(&index, 0)
        .with_context(|| format!("cannot read counters {index}"))?;
    let mut packets = [0_u64; COUNTERS];
    for cpu in values.iter() {
        for (sum, packets) in packets.iter_mut().zip(cpu.0.packets) {
            *sum += packets;
        }
    }
    Ok(packets)
}
