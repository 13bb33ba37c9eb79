//! The splice thread: the one that opens spliced connections and takes them out again. All packets
//! in between are the data path's.
//!
//! It alone owns the flow table, the handshake engine and the AF_XDP sockets of all interfaces and
//! queues, so that none of them needs a lock. The controller tells it the time, the keys, and which
//! services there are, by values that are replaced whole; questions that need an answer go through a
//! bounded queue.

mod answers;
mod commands;
mod ending;
mod links;
mod selection;
mod sweep;
mod thread;
mod world;

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use aya::maps::{MapData, RingBuf, XskMap};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::oneshot;
use xdp_common::{cookie::Key, splice::index::buckets};

use self::{
    answers::Answers, commands::Command, ending::Ending, links::Links, thread::Thread, world::Realm,
};
use crate::{
    engine::{Tick, handshake::Handshakes, reason::CloseReason},
    flows::{Adoption, Table, Usage, memory::Mapped},
    netlink::link::Link,
    proxy::info::{Filter, Listing},
    splicing::{director::Director, directory::Replaced, stats::ThreadStats},
    task::EndsAll,
};

/// Questions that wait for their turn.
const COMMANDS_MAX: usize = 32;

/// Handshakes in progress of all services together. Each takes some 200 bytes of this process.
pub const HALF_OPEN_MAX: u32 = 262_144;

/// The event that wakes the thread counts: one for each question.
const WAKE: EfdFlags = EfdFlags::EFD_SEMAPHORE
    .union(EfdFlags::EFD_NONBLOCK)
    .union(EfdFlags::EFD_CLOEXEC);

/// The data path's maps that the thread works on.
pub struct Maps {
    /// `FLOWS`.
    pub flows: OwnedFd,
    /// `FLOW_INDEX`.
    pub index: OwnedFd,
    /// Elements of `FLOWS`, one more than connections; `FLOW_INDEX` has as many as [`buckets`] says
    /// for the connections.
    pub flow_count: u32,
    /// The seed that the index is filled with, as in `Control`: kept as long as the maps are.
    pub flow_seed: u64,
    /// `XSKS`.
    pub xsks: XskMap<MapData>,
    /// `ANSWERED`.
    pub answered: RingBuf<MapData>,
}

/// What a thread starts with.
pub struct Setup {
    /// Its maps.
    pub maps: Maps,
    /// The interfaces that levee is attached to.
    pub links: Vec<Link>,
    /// Services, targets and ways.
    pub director: Director,
    /// The keys in force, by slot.
    pub keys: [Key; 2],
    /// [`clock_s`](xdp_common::abi::Control::clock_s) now.
    pub clock_s: u32,
    /// When the clock was at 0 that backends' health goes by.
    pub started: Instant,
    /// Where it counts.
    pub stats: Arc<ThreadStats>,
}

/// The running thread. It ends when this is dropped; flows go on.
#[derive(Debug)]
pub struct Splice {
    shared: Arc<Shared>,
    usage: Arc<Usage>,
    stats: Arc<ThreadStats>,
    adoption: Adoption,
    capacity: u32,
    commands: Option<SyncSender<Command>>,
    thread: Option<JoinHandle<()>>,
}

/// What the controller tells the thread without being answered.
#[derive(Debug)]
struct Shared {
    clock_s: AtomicU32,
    keys: Replaced<[Key; 2]>,
    wake: EventFd,
}

impl Splice {
    /// Takes over the flow table, opens the sockets, and starts the thread: from then on it serves
    /// what the data path hands over.
    ///
    /// # Errors
    /// Says what the kernel refuses: a map, a socket, or a thread.
    pub fn start(setup: Setup) -> Result<Self> {
        let Setup {
            mut maps,
            links,
            director,
            keys,
            clock_s,
            started,
            stats,
        } = setup;
        let bucket_count = buckets(maps.flow_count - 1);
        let memory = Mapped::new(&maps.flows, maps.flow_count, &maps.index, bucket_count)
            .context("cannot map the flow table")?;
        let (mut table, adoption) = Table::adopt(memory, maps.flow_seed);
        let now = Tick::of(started.elapsed());
        table.set_time(now, clock_s);
        let links = Links::open(&links, &mut maps.xsks)?;
        let shared = Arc::new(Shared {
            clock_s: AtomicU32::new(clock_s),
            keys: Replaced::new(keys),
            wake: EventFd::from_flags(WAKE).context("cannot make an event")?,
        });
        let (usage, capacity) = (Arc::clone(table.usage()), table.capacity());
        let handshakes = Handshakes::new(now, HALF_OPEN_MAX, keys);
        let mut realm = Realm {
            table,
            director,
            links,
            stats: Arc::clone(&stats),
            now,
            known: HashMap::new(),
            ending: Ending::default(),
        };
        realm.learn();
        let (commands, queue) = sync_channel(COMMANDS_MAX);
        let answers = Answers::new(maps.answered);
        let thread = Thread::new(
            realm,
            handshakes,
            answers,
            Arc::clone(&shared),
            queue,
            started,
        );
        Ok(Self {
            shared,
            usage,
            stats,
            adoption,
            capacity,
            commands: Some(commands),
            thread: Some(spawn(thread)?),
        })
    }

    /// What was found in the table at the start.
    #[must_use]
    pub const fn adoption(&self) -> Adoption {
        self.adoption
    }

    /// Flows that the table can hold.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Flows now, pending ones included; up to a quarter of a second old.
    #[must_use]
    pub fn flows(&self) -> u64 {
        self.stats.flows.get()
    }

    /// How many flows each service and target has.
    #[must_use]
    pub const fn usage(&self) -> &Arc<Usage> {
        &self.usage
    }

    /// Tells the time, each second.
    pub fn set_clock(&self, clock_s: u32) {
        self.shared.clock_s.store(clock_s, Relaxed);
    }

    /// Tells the keys, whenever the data path is told others.
    pub fn set_keys(&self, keys: [Key; 2]) {
        self.shared.keys.store(keys);
    }

    /// Connections that `filter` selects; at most `max` of them with details.
    ///
    /// # Errors
    /// Fails when too many questions wait already.
    pub async fn list(&self, filter: &Filter, max: usize) -> Result<Listing> {
        self.ask(|answer| Command::List(filter.clone(), max, answer))
            .await
    }

    /// Connections now that are not over, with handshakes in progress.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn open(&self) -> Result<u64> {
        self.ask(Command::Open).await
    }

    /// Ends the connections that `filter` selects, for this reason, with a RST to both ends. Returns
    /// how many.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn end(&self, filter: &Filter, reason: CloseReason) -> Result<u64> {
        self.ask(|answer| Command::End(filter.clone(), reason, answer))
            .await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T> {
        let (answer, told) = oneshot::channel();
        let commands = self
            .commands
            .as_ref()
            .context("the splice thread is gone")?;
        match commands.try_send(command(answer)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                bail!("{COMMANDS_MAX} questions wait for the splice thread already: ask again")
            }
            Err(TrySendError::Disconnected(_)) => bail!("the splice thread is gone"),
        }
        self.shared.wake();
        told.await.context("the splice thread is gone")
    }
}

impl Shared {
    fn wake(&self) {
        // It fails when the event is set to the full already: then the thread will look anyway.
        self.wake.write(1).ok();
    }
}

impl Drop for Splice {
    fn drop(&mut self) {
        self.commands = None;
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has ended the process.
            thread.join().ok();
        }
    }
}

fn spawn(thread: Thread) -> Result<JoinHandle<()>> {
    let body = || {
        let _ends_all = EndsAll("the splicer");
        thread.run();
    };
    std::thread::Builder::new()
        .name("levee-splice".into())
        .spawn(body)
        .context("cannot start the splice thread")
}
