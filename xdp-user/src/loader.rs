//! Brings the data path into the kernel. What attaches it to interfaces is in `attach`.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::ProgramArray,
    programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions, Xdp},
};
use xdp_common::{
    abi::names,
    splice::index::{self, FLOWS_MAX},
};
use zerocopy::IntoBytes as _;

use crate::{
    jiffies,
    kfunc::ASSIGN_TCP_REQSK,
    pins::{Adopted, Pins},
    preflight::Kernel,
};

static OBJECT: &[u8] = include_bytes_aligned!(env!("LEVEE_OBJECT"));

/// The least that `BPF_PROG_TEST_RUN` takes: an Ethernet header.
const FRAME_MIN: [u8; 14] = [0; 14];

/// Lines of the verifier's log that are shown.
const VERIFIER_LINES_MAX: usize = 20;

/// The globals of the data path: constants of the programs once they are loaded.
#[derive(Clone, Copy, Debug)]
struct Globals {
    check_syn_checksum: u8,
    ms_per_jiffy: u32,
}

/// The data path's object, made fit for the running kernel.
#[derive(Debug)]
pub struct Object {
    /// Words, for the ELF parser wants the bytes aligned.
    words: Vec<u64>,
    /// Spliced connections that the table has room for; 0 where nothing is spliced.
    flows: u32,
}

impl Object {
    /// Links the object's calls of kernel functions.
    ///
    /// # Errors
    /// Fails when the object is not what this levee was made for.
    pub fn new(kernel: Kernel) -> Result<Self> {
        let mut words = vec![0_u64; OBJECT.len().div_ceil(size_of::<u64>())];
        let bytes = &mut words.as_mut_bytes()[..OBJECT.len()];
        bytes.copy_from_slice(OBJECT);
        ASSIGN_TCP_REQSK.link(bytes, kernel.assign_tcp_reqsk)?;
        Ok(Self { words, flows: 0 })
    }

    /// Makes room for that many spliced connections, below [`FLOWS_MAX`].
    #[must_use]
    pub fn with_flows(self, flows: u32) -> Self {
        let flows = flows.min(FLOWS_MAX - 1);
        Self { flows, ..self }
    }

    /// Makes the maps, or adopts those that are pinned, and has the kernel verify and compile the
    /// programs. Takes some tenths of a second: the length of a jiffy is measured first, for which
    /// the object is loaded twice.
    ///
    /// # Errors
    /// Names the map or program that is missing, or that the kernel refuses, with its reason; and
    /// a pinned map that is laid out differently.
    pub fn load(&self, check_syn_checksum: bool, pins: &Pins) -> Result<(Ebpf, Adopted)> {
        let mut globals = Globals {
            check_syn_checksum: check_syn_checksum.into(),
            ms_per_jiffy: 1,
        };
        let mut fresh = self.open(&globals, 0, &Adopted::default())?;
        let adopted = pins.adoptable(&fresh, &sizes(self.flows))?;
        let hz = measure_hz(&mut fresh)?;
        drop(fresh);
        globals.ms_per_jiffy = jiffies::ms_per_jiffy(hz);
        log::debug!("the kernel counts {hz} jiffies per second");
        let mut ebpf = self.open(&globals, self.flows, &adopted)?;
        load_xdp(&mut ebpf, names::XDP_PROGRAM)?;
        load_jumps(&mut ebpf)?;
        for name in [names::TC_PROGRAM, names::TC_INNER_PROGRAM] {
            let tc: &mut SchedClassifier = program(&mut ebpf, name)?;
            tc.load().map_err(|error| refused(name, error))?;
        }
        Ok((ebpf, adopted))
    }

    fn open(&self, globals: &Globals, flows: u32, adopted: &Adopted) -> Result<Ebpf> {
        let mut loader = EbpfLoader::new();
        for (name, entries) in sizes(flows) {
            loader.map_max_entries(name, entries);
        }
        for (name, path) in adopted.iter() {
            loader.map_pin_path(name, path);
        }
        loader
            .override_global(names::CHECK_SYN_CHECKSUM, &globals.check_syn_checksum, true)
            .override_global(names::MS_PER_JIFFY, &globals.ms_per_jiffy, true)
            .load(&self.words.as_bytes()[..OBJECT.len()])
            .context("cannot load the eBPF object")
    }
}

/// Bytes of [`names::ANSWERED`], where something is spliced: as much as 28 CPUs may tell of in a
/// quarter of a second.
const ANSWERED_BYTES: u32 = 1 << 19;

/// Entries of the maps that are as large as that many spliced connections need.
fn sizes(flows: u32) -> [(&'static str, u32); 3] {
    // Flow 0 is none. Maps of no entries do not exist.
    let (buckets, answered) = match flows {
        // Of the ring, a page.
        0 => (1, 1),
        flows => (index::buckets(flows), ANSWERED_BYTES),
    };
    [
        (names::FLOWS, flows + 1),
        (names::FLOW_INDEX, buckets),
        (names::ANSWERED, answered),
    ]
}

/// The TC program of a loaded object.
///
/// # Errors
/// Fails when the object has none.
pub fn tc_program(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier> {
    program(ebpf, names::TC_PROGRAM)
}

/// The TC program for VLAN devices of a loaded object.
///
/// # Errors
/// Fails when the object has none.
pub fn tc_inner_program(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier> {
    program(ebpf, names::TC_INNER_PROGRAM)
}

/// The XDP program of a loaded object.
///
/// # Errors
/// Fails when the object has none.
pub fn xdp_program(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    program(ebpf, names::XDP_PROGRAM)
}

/// Loads the programs that the XDP program hands packets over to, and puts them where it finds
/// them. The map stays in `ebpf`: the kernel empties one that no process holds.
fn load_jumps(ebpf: &mut Ebpf) -> Result<()> {
    for (slot, name) in (0..).zip(names::JUMP_PROGRAMS) {
        let program = load_xdp(ebpf, name)?.fd()?.try_clone()?;
        let map = ebpf
            .map_mut(names::JUMPS)
            .with_context(|| format!("the eBPF object has no map {}", names::JUMPS))?;
        ProgramArray::try_from(map)?
            .set(slot, &program, 0)
            .with_context(|| format!("cannot put {name} into the map {}", names::JUMPS))?;
    }
    Ok(())
}

fn load_xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program: &mut Xdp = program(ebpf, name)?;
    program.load().map_err(|error| refused(name, error))?;
    Ok(program)
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    ebpf.program_mut(name)
        .with_context(|| {
            format!("the eBPF object has no program {name}: was it built from this source?")
        })?
        .try_into()
        .with_context(|| format!("the program {name} is of another type than levee expects"))
}

/// The error for a program that the kernel did not take: of the verifier's log, which can be
/// thousands of lines, only the end, where the reason stands.
fn refused(name: &str, error: ProgramError) -> anyhow::Error {
    let what = format!("the kernel refuses the program {name}");
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    else {
        return anyhow::Error::from(error).context(what);
    };
    let log = verifier_log.to_string();
    log::debug!("the verifier's log for {name}:\n{log}");
    let lines: Vec<_> = log.lines().collect();
    let end = lines[lines.len().saturating_sub(VERIFIER_LINES_MAX)..].join("\n");
    anyhow::Error::from(io_error).context(format!("{what}; the end of the verifier's log:\n{end}"))
}

fn measure_hz(ebpf: &mut Ebpf) -> Result<u32> {
    let program = load_xdp(ebpf, names::JIFFIES_PROGRAM)?;
    jiffies::measure_hz(|| {
        let options = TestRunOptions {
            data_in: Some(&FRAME_MIN),
            ..TestRunOptions::default()
        };
        let result = program
            .test_run(options)
            .with_context(|| format!("cannot run the program {}", names::JIFFIES_PROGRAM))?;
        Ok(result.return_value)
    })
}
