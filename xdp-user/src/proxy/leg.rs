//! One TCP connection of the two, with the readiness rules that keep it from spinning.
//!
//! tokio registers sockets edge-triggered, and only this thread turns events into readiness, so
//! between a system call that would block and the readiness being cleared nothing can come. What
//! tokio knows as closed it never forgets: a leg at its end is not asked again whether it is
//! readable, or it would be, for ever.

use std::{
    future::Future as _,
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    pin::pin,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{SpliceFFlags, splice},
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
};
use socket2::SockRef;
use tokio::{
    io::{Interest, Ready},
    net::TcpStream,
};

use super::pipe::{PIPE_LEN, Pipe};

/// `SPLICE_F_MORE` is not among them: it would hold the last bytes back for up to 200 ms.
const FLAGS: SpliceFFlags = SpliceFFlags::SPLICE_F_NONBLOCK.union(SpliceFFlags::SPLICE_F_MOVE);

/// nix does not name it.
const MSG_MORE: MsgFlags = MsgFlags::from_bits_retain(libc::MSG_MORE);

/// How a leg broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The peer sent a RST.
    Reset,
    /// The peer no longer answers: keepalive or retransmissions gave up.
    TimedOut,
    /// The route is gone.
    Unreachable,
    /// Anything else.
    Other,
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        match errno {
            // In CLOSE_WAIT Linux reports a RST as EPIPE, in SYN_SENT as ECONNREFUSED.
            Errno::ECONNRESET | Errno::EPIPE | Errno::ECONNREFUSED | Errno::ECONNABORTED => {
                Self::Reset
            }
            Errno::ETIMEDOUT => Self::TimedOut,
            Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::EHOSTDOWN | Errno::ENETDOWN => {
                Self::Unreachable
            }
            _ => Self::Other,
        }
    }
}

/// What a read or a write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Got {
    /// This many bytes, at least one.
    Bytes(usize),
    /// The peer's FIN; only of reads.
    Eof,
    /// Nothing now.
    Blocked,
    /// The connection broke.
    Broken(Failure),
}

/// One of a proxied connection's sockets.
#[derive(Debug)]
pub(super) struct Leg {
    stream: TcpStream,
    eof: bool,
    /// Whether the last read left nothing but a FIN.
    fin_is_next: bool,
    write_blocked: bool,
    failure: Option<Failure>,
}

impl Leg {
    /// Registers a connected socket that does not block.
    pub(super) fn connected(socket: socket2::Socket) -> io::Result<Self> {
        Self::new(socket, false)
    }

    /// Registers a socket whose connect is in progress.
    pub(super) fn connecting(socket: socket2::Socket) -> io::Result<Self> {
        Self::new(socket, true)
    }

    fn new(socket: socket2::Socket, write_blocked: bool) -> io::Result<Self> {
        Ok(Self {
            stream: TcpStream::from_std(socket.into())?,
            eof: false,
            fin_is_next: false,
            write_blocked,
            failure: None,
        })
    }

    /// The socket, for its options.
    pub(super) fn socket(&self) -> SockRef<'_> {
        SockRef::from(&self.stream)
    }

    /// Whether everything was read: up to the peer's FIN, or to a failure.
    pub(super) const fn at_eof(&self) -> bool {
        self.eof
    }

    /// Ready when a read may tell something. Not to be asked at the [end](Self::at_eof).
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        debug_assert!(!self.eof);
        // The only error is that the runtime ends, and then nothing is polled again.
        let ready = self.stream.poll_read_ready(cx).map(|_| ());
        // A write may tell of a RST before the event does that tells of bytes in front of it.
        if ready.is_pending() && self.failure.is_some() && self.has_unread() {
            return Poll::Ready(());
        }
        ready
    }

    /// Asks the kernel whether there is something to read.
    fn has_unread(&self) -> bool {
        let peeked = recv(self.stream.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK);
        peeked.is_ok_and(|n| n > 0)
    }

    /// Whether the peer's FIN is there, perhaps behind bytes that were not read. Asks the kernel
    /// nothing.
    pub(super) fn has_fin(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.failure.is_none() && self.readiness(&mut cx, Interest::READABLE).is_read_closed()
    }

    /// Ready when a write may do something.
    pub(super) fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.write_blocked {
            ready!(self.stream.poll_write_ready(cx)).ok();
            self.write_blocked = false;
        }
        Poll::Ready(())
    }

    /// Ready with `Ok` when the connect in progress succeeded.
    pub(super) fn poll_connected(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Errno>> {
        ready!(self.poll_writable(cx));
        // Readiness tells a failure without a system call: it comes with an error or a hang-up.
        if !self.readiness(cx, Interest::WRITABLE).is_write_closed() {
            return Poll::Ready(Ok(()));
        }
        let error = self.stream.take_error().ok().flatten();
        let errno = error.and_then(|error| error.raw_os_error());
        Poll::Ready(match errno.map_or(Errno::ECONNRESET, Errno::from_raw) {
            // A RST in answer to the SYN is ECONNREFUSED. This one came later: the connection was
            // made, and what the peer sent before it is still to be read.
            Errno::ECONNRESET | Errno::EPIPE => {
                self.failure = Some(Failure::Reset);
                Ok(())
            }
            errno => Err(errno),
        })
    }

    /// Ready when the connection broke. For a leg that is not read: while its other side connects,
    /// and after its peer's FIN, when reads no longer tell of a RST.
    pub(super) fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        if let Some(failure) = self.failure {
            return Poll::Ready(failure);
        }
        loop {
            let ready = self.readiness(cx, Interest::WRITABLE);
            if ready.is_write_closed() {
                // So is a leg whose FINs went both ways, and there nothing breaks any more.
                return self.take_error().map_or(Poll::Pending, Poll::Ready);
            }
            // A socket that can be written is ready all the time; only what comes new counts. That
            // it can be written must not be forgotten with it.
            self.write_blocked &= ready.is_empty();
            self.clear(Interest::WRITABLE);
            ready!(self.stream.poll_write_ready(cx)).ok();
        }
    }

    /// Whether something came in: bytes or a FIN. Asks the kernel nothing.
    pub(super) fn has_input(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        !self.readiness(&mut cx, Interest::READABLE).is_empty()
    }

    /// Reads into `buffer` and leaves it in the socket as well.
    pub(super) fn peek(&mut self, buffer: &mut [u8]) -> Got {
        match recv(self.stream.as_raw_fd(), buffer, MsgFlags::MSG_PEEK) {
            Ok(0) => Got::Eof,
            Ok(n) => Got::Bytes(n),
            Err(errno) => self.read_failed(errno),
        }
    }

    /// Lets [`poll_readable`](Self::poll_readable) wait for more than is there. False when no more
    /// will come.
    pub(super) fn await_more(&self) -> bool {
        self.clear(Interest::READABLE);
        // What is left is only whether the peer has closed.
        !self.has_input()
    }

    /// Reads into `buffer`.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Got {
        match recv(self.stream.as_raw_fd(), buffer, MsgFlags::empty()) {
            Ok(0) => self.ended(),
            Ok(n) => {
                self.fin_is_next = n < buffer.len() && self.has_fin();
                if n < buffer.len() {
                    // That was all; asking once more would only cost a system call. A FIN behind it
                    // stays known, so that the next read is not waited for.
                    self.clear(Interest::READABLE);
                }
                Got::Bytes(n)
            }
            Err(errno) => self.read_failed(errno),
        }
    }

    /// Whether the last [`read`](Self::read) got everything in front of a FIN that is already there.
    pub(super) const fn fin_is_next(&self) -> bool {
        self.fin_is_next
    }

    /// Writes as much of `bytes` as fits.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Got {
        self.send(bytes, MsgFlags::MSG_NOSIGNAL)
    }

    /// Like [`write`](Self::write), for bytes that a FIN follows at once. The last segment waits for
    /// it, so that one packet carries both; without a FIN the kernel sends it after some 200 ms.
    pub(super) fn write_last(&mut self, bytes: &[u8]) -> Got {
        self.send(bytes, MsgFlags::MSG_NOSIGNAL | MSG_MORE)
    }

    fn send(&mut self, bytes: &[u8], flags: MsgFlags) -> Got {
        match send(self.stream.as_raw_fd(), bytes, flags) {
            Ok(n) => {
                if n < bytes.len() {
                    // Full. The kernel tells when there is room, as after EAGAIN.
                    self.block_writes();
                }
                Got::Bytes(n)
            }
            Err(errno) => self.write_failed(errno),
        }
    }

    /// Moves what is there into an empty pipe.
    pub(super) fn splice_in(&mut self, pipe: &mut Pipe) -> Got {
        match splice(&self.stream, None, &pipe.writer, None, PIPE_LEN, FLAGS) {
            Ok(0) => self.ended(),
            Ok(n) => {
                pipe.len += n;
                Got::Bytes(n)
            }
            Err(errno) => self.read_failed(errno),
        }
    }

    /// Moves what fits out of a pipe that holds something.
    pub(super) fn splice_out(&mut self, pipe: &mut Pipe) -> Got {
        match splice(&pipe.reader, None, &self.stream, None, pipe.len, FLAGS) {
            Ok(n) => {
                pipe.len -= n;
                Got::Bytes(n)
            }
            Err(errno) => self.write_failed(errno),
        }
    }

    /// Asks the kernel whether there is room to write. If there is none,
    /// [`poll_writable`](Self::poll_writable) waits for it.
    pub(super) fn has_room(&mut self) -> bool {
        let mut asked = [PollFd::new(self.stream.as_fd(), PollFlags::POLLOUT)];
        // An error is for the next write to tell.
        let full = poll(&mut asked, PollTimeout::ZERO) == Ok(0);
        if full {
            self.block_writes();
        }
        !full
    }

    /// How it broke, as far as that is known.
    pub(super) const fn failure(&self) -> Option<Failure> {
        self.failure
    }

    /// Nothing more will come: because of a FIN, or of a failure that was told before.
    fn ended(&mut self) -> Got {
        self.eof = true;
        self.failure.map_or(Got::Eof, Got::Broken)
    }

    fn read_failed(&mut self, errno: Errno) -> Got {
        match errno {
            Errno::EAGAIN | Errno::EINTR => {
                if errno == Errno::EAGAIN {
                    self.clear(Interest::READABLE);
                }
                Got::Blocked
            }
            errno => {
                self.eof = true;
                self.broken(errno.into())
            }
        }
    }

    fn write_failed(&mut self, errno: Errno) -> Got {
        match errno {
            Errno::EAGAIN => {
                self.block_writes();
                Got::Blocked
            }
            Errno::EINTR => Got::Blocked,
            errno => self.broken(errno.into()),
        }
    }

    fn block_writes(&mut self) {
        self.clear(Interest::WRITABLE);
        self.write_blocked = true;
    }

    fn broken(&mut self, failure: Failure) -> Got {
        Got::Broken(*self.failure.get_or_insert(failure))
    }

    /// `SO_ERROR`, which the kernel tells once, and not if a read or a write told it before.
    fn take_error(&mut self) -> Option<Failure> {
        let error = self.stream.take_error().ok().flatten();
        let errno = error.and_then(|error| error.raw_os_error());
        let failure = errno.map(|errno| Errno::from_raw(errno).into());
        self.failure = self.failure.or(failure);
        self.failure
    }

    fn clear(&self, interest: Interest) {
        // The way tokio offers to clear readiness. The error is the one made here.
        let _blocked: io::Result<()> = self
            .stream
            .try_io(interest, || Err(io::ErrorKind::WouldBlock.into()));
    }

    fn readiness(&self, cx: &mut Context<'_>, interest: Interest) -> Ready {
        match pin!(self.stream.ready(interest)).poll(cx) {
            Poll::Ready(Ok(ready)) => ready,
            Poll::Ready(Err(_)) | Poll::Pending => Ready::EMPTY,
        }
    }

    /// Sends the ACK that [`connect`](super::connect) has put off, if no bytes have taken it along.
    pub(super) fn acknowledge(&self) {
        // Without the option the kernel sends it 200 ms later.
        self.socket().set_tcp_quickack(true).ok();
    }

    /// Sends a FIN after what was written.
    pub(super) fn shutdown_write(&self) {
        // Fails only on a connection that broke; whoever reads or watches it is told why.
        self.socket().shutdown(std::net::Shutdown::Write).ok();
    }

    /// Ends the connection with a RST. What the kernel has not sent yet is thrown away.
    pub(super) fn reset(self) {
        // Without the option closing sends a FIN, which is as much as can be done then.
        self.socket().set_linger(Some(Duration::ZERO)).ok();
    }

    /// Bytes that the kernel has not sent yet, and so would throw away at a reset.
    pub(super) fn unsent(&self) -> u32 {
        super::sockopt::unsent(self.stream.as_fd())
    }
}
