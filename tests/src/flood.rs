//! The flood: segments from random spoofed sources, made in the kernel by running the generator
//! program on live XDP frames (`BPF_PROG_TEST_RUN` with `BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18).
mod fate;
mod template;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    maps::Array,
    programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode},
};
use nix::unistd::gettid;

use self::{fate::SharedFate, template::Template};
use crate::{
    abi::flood::{self, TEMPLATE_WORDS},
    link::ifindex,
    netns::Netns,
    object::Object,
    scheduling::{busy_cpus, pin_thread, set_nice},
    switch::Chance,
};

/// Longest a flood may be asked to last.
pub const DURATION_MAX: Duration = Duration::from_secs(60);

/// Calls of the generator between two flushes of what it sent: well under the 256 slots of veth's
/// receive ring.
const BATCH: u32 = 64;

/// Calls of the generator per system call, which bounds how late a stop takes effect (some 10 ms).
const CALLS: u32 = 65_536;

/// Behind client and server, but not starved by whatever else a machine does.
const GENERATOR_NICE: i32 = 5;

/// What kind of segment the flood consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloodKind {
    /// Initial SYNs with the options that Linux sends.
    Syn,
    /// ACKs with random sequence and acknowledgement numbers, with timestamps.
    Ack,
}

/// One flood; both bounds hold.
#[derive(Clone, Copy, Debug)]
pub struct FloodSpec {
    /// Whom it hits.
    pub target: SocketAddr,
    /// What it consists of.
    pub kind: FloodKind,
    /// Segments per second; `None` is as fast as the machine can.
    pub rate: Option<u64>,
    /// Equal seeds give equal segments in equal order.
    pub seed: u64,
    /// Most segments in all.
    pub count_max: u64,
    /// Longest it lasts, at most [`DURATION_MAX`].
    pub duration_max: Duration,
}

/// Where a flood enters: an interface of a namespace, and the MAC addresses of its frames.
#[derive(Clone, Debug)]
pub struct Injection<'a> {
    /// The namespace of the interface.
    pub netns: &'a Netns,
    /// The veth end the segments are sent from.
    pub interface: &'a str,
    /// Source and destination MAC.
    pub macs: [[u8; 6]; 2],
    /// Where the share of frames lost is written, for the client to lose as many.
    pub(crate) chance: Chance,
}

/// A running flood; dropping it stops it.
#[derive(Debug)]
pub struct Flood {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<Sent>>>,
}

/// What a finished flood sent.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Segments offered to the link; some may have been lost there.
    pub frames: u64,
    /// From the first segment to the last.
    pub elapsed: Duration,
}

impl Sent {
    /// Segments per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.frames as f64 / self.elapsed.as_secs_f64()
    }
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    frames: AtomicU64,
}

impl Flood {
    /// Starts the generator and returns once it is loaded.
    ///
    /// # Errors
    /// Fails on a duration over the bound, a rate of 0, or when the generator cannot be loaded.
    pub fn start(injection: Injection<'_>, spec: FloodSpec) -> Result<Self> {
        if spec.duration_max > DURATION_MAX {
            bail!(
                "a flood of {:?}; allowed are {DURATION_MAX:?}",
                spec.duration_max
            );
        }
        if spec.rate == Some(0) {
            bail!("a flood of 0 segments per second; at least 1 is needed");
        }
        let mut generator = Generator::load(&injection, &spec)?;
        let shared = Arc::new(Shared::default());
        let (ready, is_ready) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("levee-lab-flood".into())
            .spawn({
                let (netns, shared) = (injection.netns.clone(), Arc::clone(&shared));
                let (interface, chance) = (injection.interface.to_owned(), injection.chance);
                move || {
                    settle(&netns)?;
                    let mut fate = SharedFate::start(&interface, chance)?;
                    // Only a caller that has given up is gone, and it needs no news.
                    ready.send(()).ok();
                    generator.send(&spec, &shared, &mut fate)
                }
            });
        let flood = Self {
            shared,
            thread: Some(thread.context("cannot start the flood's thread")?),
        };
        if is_ready.recv().is_err() {
            flood.join()?;
            bail!("the flood ended before it was ready");
        }
        Ok(flood)
    }

    /// Segments offered so far.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.shared.frames.load(Ordering::Relaxed)
    }

    /// Stops it now.
    ///
    /// # Errors
    /// That of the generator, if it failed.
    pub fn stop(self) -> Result<Sent> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.join()
    }

    /// Waits until it has reached one of its bounds.
    ///
    /// # Errors
    /// That of the generator, if it failed.
    pub fn join(mut self) -> Result<Sent> {
        let thread = self.thread.take().context("joined twice")?;
        thread
            .join()
            .map_err(|_| anyhow!("the flood's thread panicked"))?
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Whoever wants the generator's error uses `stop` or `join`.
            thread.join().ok();
        }
    }
}

/// Puts the calling thread where the generator must run: in the sender's namespace, on the sender's
/// CPU, and behind everyone else: what it takes from the CPU it must not take from the client and
/// the server, which on a real network do not share one with the attacker.
pub(crate) fn settle(netns: &Netns) -> Result<()> {
    netns.enter()?;
    set_nice(gettid(), GENERATOR_NICE)?;
    match busy_cpus() {
        Some((sender, _)) => pin_thread(gettid(), sender),
        None => Ok(()),
    }
}

/// Has a program send [`CALLS`] live frames, each `frame` at first.
pub(crate) fn send_frames(program: &Xdp, frame: &[u8]) -> Result<()> {
    let options = TestRunOptions {
        data_in: Some(frame),
        repeat: CALLS,
        attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
        ..TestRunOptions::default()
    };
    program
        .test_run(options)
        .context("cannot send frames (live XDP frames need Linux 5.18)")?;
    Ok(())
}

struct Generator {
    object: Object,
    template: Vec<u8>,
}

impl Generator {
    fn load(injection: &Injection<'_>, spec: &FloodSpec) -> Result<Self> {
        let template = Template::new(spec.kind, spec.target, injection.macs);
        let index = ifindex(injection.netns, injection.interface)?;
        let globals = [
            ("FLOOD_IFINDEX", index),
            (
                "FLOOD_IP_VERSION",
                if spec.target.is_ipv4() { 4 } else { 6 },
            ),
            ("FLOOD_RANDOM_ACK", u32::from(spec.kind == FloodKind::Ack)),
            ("FLOOD_LENGTH", template.frame.len() as u32),
            ("FLOOD_IP_SUM", template.ip_sum),
            ("FLOOD_TCP_SUM", template.tcp_sum),
        ];
        let interval = interval(spec.rate);
        let mut object = Object::load_with(&globals, |loader| {
            loader
                .override_global("FLOOD_SEED", &spec.seed, true)
                .override_global("FLOOD_INTERVAL", &interval, true)
                .override_global("FLOOD_COUNT_MAX", &spec.count_max, true);
        })?;
        let map = object
            .ebpf()
            .map_mut("FLOOD_TEMPLATE")
            .context("no map FLOOD_TEMPLATE")?;
        Array::<_, [u64; TEMPLATE_WORDS]>::try_from(map)?.set(0, template.words()?, 0)?;
        // Attached anywhere at all, the program keeps its place in the kernel's dispatcher; without
        // that every test run would rewrite the dispatcher's code twice, at 12 ms each. The
        // loopback interface carries nothing here.
        object.attach_xdp(injection.netns, "lo", "lab_flood", XdpMode::Skb)?;
        Ok(Self {
            object,
            template: template.frame,
        })
    }

    fn send(&mut self, spec: &FloodSpec, shared: &Shared, fate: &mut SharedFate) -> Result<Sent> {
        let start = Instant::now();
        loop {
            self.run()?;
            let (frames, elapsed) = (self.sent()?, start.elapsed());
            shared.frames.store(frames, Ordering::Relaxed);
            fate.update()?;
            let over = frames >= spec.count_max || elapsed >= spec.duration_max;
            if over || shared.stop.load(Ordering::Relaxed) {
                return Ok(Sent { frames, elapsed });
            }
        }
    }

    fn run(&mut self) -> Result<()> {
        send_frames(self.object.xdp("lab_flood")?, &self.template)
    }

    fn sent(&mut self) -> Result<u64> {
        let map = self
            .object
            .ebpf()
            .map("FLOOD_STATE")
            .context("no map FLOOD_STATE")?;
        Ok(Array::<_, u64>::try_from(map)?.get(&flood::SENT, 0)?)
    }
}

/// The time between two frames, in the generator's unit; 0 for none.
fn interval(rate: Option<u64>) -> u64 {
    const SECOND: u64 = 1_000_000_000 << flood::TIME_SHIFT;
    rate.map_or(0, |rate| (SECOND / rate).max(1))
}
