//! AF_XDP: how frames come from the data path to this process, and how it sends some.
//!
//! Sockets are bound in copy mode, also where the driver could do without. In zero-copy mode all the
//! memory that a queue receives into is the socket's: every packet that is only forwarded would be
//! copied first, and a controller that dies would have the driver reset the queue. What is copied
//! here are handshakes.

mod ring;
mod sys;
mod umem;

use std::{
    io,
    ops::AddAssign,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{errno::Errno, libc};

pub use self::umem::FRAME_MAX;
use self::{
    ring::{Consumer, Descriptor, Producer},
    umem::{CHUNK, Umem},
};
use crate::netlink::link::Link;

/// Frames that may wait to be read from one queue: at 100,000 new connections per second, with two
/// frames each, those of 10 ms. Further ones are dropped and counted.
pub const RECEIVE_FRAMES: u32 = 2048;

/// Frames that may wait to be sent through one queue. Further ones are dropped and counted.
pub const SEND_FRAMES: u32 = 2048;

/// System calls in a row to send what waits: in copy mode each sends 32 frames.
const KICKS_MAX: u32 = SEND_FRAMES / 32 + 8;

/// How long a queue may be taken by a socket that was closed just now, before that is an error: the
/// kernel lets go of it a moment after the process has ended.
const BUSY_MAX: Duration = Duration::from_secs(1);

/// An AF_XDP socket of one queue of an interface.
#[derive(Debug)]
pub struct XskSocket {
    fill: Producer,
    completion: Consumer,
    receive: Consumer,
    send: Producer,
    umem: Umem,
    /// Chunks that frames to be sent can be written to.
    free: Vec<u32>,
    counts: Counts,
    /// The interface is down, or gone: the last attempt to send said so.
    is_down: bool,
    // After the rings and the memory that it knows.
    socket: OwnedFd,
}

/// What a socket has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames received.
    pub received: u64,
    /// Frames handed to the kernel to be sent.
    pub sent: u64,
    /// Frames dropped because as many wait to be sent already as may.
    pub send_full: u64,
    /// Times that the kernel refused to send what waits: it is tried again.
    pub send_refused: u64,
    /// Frames that the kernel dropped: as many wait to be read already as may, or they are longer
    /// than [`FRAME_MAX`].
    pub dropped: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.sent += other.sent;
        self.send_full += other.send_full;
        self.send_refused += other.send_refused;
        self.dropped += other.dropped;
    }
}

/// Receive queues of an interface.
///
/// # Errors
/// Fails when the kernel does not tell.
pub fn receive_queues(link: &Link) -> Result<u32> {
    sys::receive_queues(&link.name)
        .with_context(|| format!("{}: cannot tell how many receive queues it has", link.name))
}

impl XskSocket {
    /// Makes a socket for a queue, and binds it. What the data path hands over arrives once the
    /// socket is in its map.
    ///
    /// # Errors
    /// Says what the kernel refuses, and why.
    pub fn open(link: &Link, queue: u32) -> Result<Self> {
        Self::bound(link.index, queue).with_context(|| {
            format!(
                "{}: cannot open an AF_XDP socket for queue {queue}",
                link.name
            )
        })
    }

    fn bound(ifindex: u32, queue: u32) -> Result<Self> {
        let socket = sys::socket().context("the kernel makes none (CONFIG_XDP_SOCKETS)")?;
        let mut xsk = Self::new(socket).context("cannot make its rings")?;
        xsk.refill((0..RECEIVE_FRAMES).map(Umem::addr));
        let deadline = Instant::now() + BUSY_MAX;
        let flags = libc::XDP_COPY | libc::XDP_USE_NEED_WAKEUP;
        loop {
            match sys::bind(xsk.socket.as_fd(), ifindex, queue, flags) {
                Ok(()) => return Ok(xsk),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    if Instant::now() > deadline {
                        return Err(error).context("another AF_XDP socket has it");
                    }
                    thread::sleep(Duration::from_millis(10));
                }
                Err(error) => return Err(error).context("cannot bind it"),
            }
        }
    }

    fn new(socket: OwnedFd) -> io::Result<Self> {
        let umem = Umem::new(RECEIVE_FRAMES + SEND_FRAMES)?;
        let (addr, len) = umem.region();
        let region = libc::xdp_umem_reg {
            addr,
            len,
            chunk_size: CHUNK as u32,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        };
        let fd = socket.as_fd();
        sys::register_umem(fd, &region)?;
        sys::make_ring(fd, libc::XDP_UMEM_FILL_RING, RECEIVE_FRAMES)?;
        sys::make_ring(fd, libc::XDP_UMEM_COMPLETION_RING, SEND_FRAMES)?;
        sys::make_ring(fd, libc::XDP_RX_RING, RECEIVE_FRAMES)?;
        sys::make_ring(fd, libc::XDP_TX_RING, SEND_FRAMES)?;
        let at = sys::ring_offsets(fd)?;
        let (fill_page, completion_page) = (
            libc::XDP_UMEM_PGOFF_FILL_RING as i64,
            libc::XDP_UMEM_PGOFF_COMPLETION_RING as i64,
        );
        Ok(Self {
            fill: Producer::new::<u64>(fd, fill_page, at.fr, RECEIVE_FRAMES)?,
            completion: Consumer::new::<u64>(fd, completion_page, at.cr, SEND_FRAMES)?,
            receive: Consumer::new::<Descriptor>(
                fd,
                libc::XDP_PGOFF_RX_RING,
                at.rx,
                RECEIVE_FRAMES,
            )?,
            send: Producer::new::<Descriptor>(fd, libc::XDP_PGOFF_TX_RING, at.tx, SEND_FRAMES)?,
            umem,
            free: (RECEIVE_FRAMES..RECEIVE_FRAMES + SEND_FRAMES).collect(),
            counts: Counts::default(),
            is_down: false,
            socket,
        })
    }

    /// Reads at most `max` frames that wait. Returns how many there were.
    pub fn receive(&mut self, max: usize, mut each: impl FnMut(&[u8])) -> usize {
        let mut copy = [0; CHUNK];
        let mut count = 0;
        while count < max
            && let Some(Descriptor { addr, len }) = self.receive.pop()
        {
            count += 1;
            if let Some(frame) = self.umem.read(addr, len, &mut copy) {
                each(frame);
            }
            // The rings have the same size: there is room for each chunk that comes back.
            if let Some(chunk) = self.umem.chunk(addr) {
                self.fill.push(Umem::addr(chunk));
            }
        }
        if count > 0 {
            self.receive.release();
            self.fill.publish();
            self.counts.received += count as u64;
        }
        count
    }

    fn refill(&mut self, chunks: impl Iterator<Item = u64>) {
        for addr in chunks {
            self.fill.push(addr);
        }
        self.fill.publish();
    }

    /// Takes a frame to be sent with the next [`flush`](Self::flush), or earlier for want of room.
    /// False if it was dropped, because too many wait that the kernel does not send; it is counted.
    pub fn send(&mut self, frame: &[u8]) -> bool {
        if self.free.is_empty() {
            self.flush();
        }
        // The ring has an entry for each chunk.
        let Some(chunk) = self.free.pop() else {
            self.counts.send_full += 1;
            return false;
        };
        self.umem.write(chunk, frame);
        let len = frame.len().min(CHUNK) as u32;
        let addr = Umem::addr(chunk);
        self.send.push(Descriptor { addr, len });
        self.counts.sent += 1;
        true
    }

    /// Has the kernel send what was taken. What it refuses for now goes with a later call.
    pub fn flush(&mut self) {
        self.send.publish();
        self.is_down = false;
        for _ in 0..KICKS_MAX {
            let before = self.send.waiting();
            if before == 0 {
                break;
            }
            match sys::kick(self.socket.as_fd()) {
                // EAGAIN: its 32 frames are sent, or nothing can be sent now.
                Ok(()) | Err(Errno::EAGAIN | Errno::EINTR) if self.send.waiting() != before => {}
                Ok(()) | Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS | Errno::EBUSY) => {
                    self.counts.send_refused += 1;
                    break;
                }
                Err(_) => {
                    self.counts.send_refused += 1;
                    self.is_down = true;
                    break;
                }
            }
        }
        self.reclaim();
    }

    /// Whether some of what was taken is not sent yet and may be soon: not while the interface is
    /// down.
    #[must_use]
    pub fn is_sending(&self) -> bool {
        !self.is_down && self.send.waiting() > 0
    }

    /// Takes back the chunks of frames that were sent.
    fn reclaim(&mut self) {
        while let Some(addr) = self.completion.pop() {
            self.free.extend(self.umem.chunk(addr));
        }
        self.completion.release();
    }

    /// What was counted, by this process and by the kernel.
    ///
    /// # Errors
    /// Fails when the kernel does not tell.
    pub fn counts(&self) -> Result<Counts> {
        let kernel = sys::statistics(self.socket.as_fd())
            .context("cannot read the counters of an AF_XDP socket")?;
        Ok(Counts {
            dropped: kernel.rx_ring_full + kernel.rx_dropped,
            ..self.counts
        })
    }
}

impl AsFd for XskSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests;
