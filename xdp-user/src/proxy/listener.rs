//! Listening sockets: one per service and worker, in one group of `SO_REUSEPORT`.

use std::{
    fs::File,
    future::poll_fn,
    io,
    net::SocketAddr,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use nix::{errno::Errno, libc};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{io::unix::AsyncFd, time};

use super::{hosted::Hosted, keepalive, worker::Worker};
use crate::{
    config::ProxyService,
    engine::{
        reason::{AcceptError, Refusal},
        tcp::Side,
    },
};

/// Connections that may wait for `accept`. The kernel takes `net.core.somaxconn` where that is
/// less.
pub const BACKLOG: i32 = 4096;

/// Connections accepted before others get their turn.
const TURN_ACCEPTS: u32 = 64;

/// Pauses after an `accept` that lacked a descriptor or memory; doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Makes the listening socket of one worker. What is set on it, accepted sockets inherit.
///
/// Its buffers stay as the system has them: the data path computes windows from those.
///
/// # Errors
/// Fails when the address is in use or not one of this machine.
pub(super) fn bind(address: SocketAddr, config: &ProxyService) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_tcp_nodelay(true)?;
    keepalive::set(&socket, config.keepalive[Side::Client.index()])?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// A descriptor kept for when there is no other: giving it up is enough to accept a client and to
/// reset it, so that clients get an answer and the queue does not stand still.
#[derive(Debug, Default)]
pub(super) struct Reserve(Option<File>);

impl Reserve {
    /// Takes the descriptor if it is not there. False when the system gives none.
    pub(super) fn fill(&mut self) -> bool {
        if self.0.is_none() {
            self.0 = File::open("/dev/null").ok();
        }
        self.0.is_some()
    }

    /// Gives the descriptor up. False when there is none.
    fn spend(&mut self) -> bool {
        self.0.take().is_some()
    }
}

/// What a turn of accepting came to.
enum Turn {
    /// The listener is retired and nobody waits.
    Over,
    /// Nothing can be accepted for a while.
    Pause,
}

/// Accepts the clients of a service until it is retired.
pub(super) async fn accept(hosted: Rc<Hosted>, worker: Rc<Worker>, socket: Rc<AsyncFd<Socket>>) {
    let mut pause = PAUSE_MIN;
    loop {
        let mut accepted = false;
        let turn = poll_fn(|cx| poll_accept(cx, &hosted, &worker, &socket, &mut accepted)).await;
        match turn {
            Turn::Over => return,
            Turn::Pause => {
                pause = if accepted {
                    PAUSE_MIN
                } else {
                    (pause * 2).min(PAUSE_MAX)
                };
                // The listener stays ready all the time: not to look is what keeps it from
                // spinning.
                time::sleep(pause).await;
            }
        }
    }
}

fn poll_accept(
    cx: &mut Context<'_>,
    hosted: &Rc<Hosted>,
    worker: &Rc<Worker>,
    socket: &AsyncFd<Socket>,
    accepted: &mut bool,
) -> Poll<Turn> {
    for _ in 0..TURN_ACCEPTS {
        let retired = hosted.is_retired(cx.waker());
        // A retired listener is closed only when `accept` itself says that nobody waits: closing
        // it resets who does.
        let guard = match socket.poll_read_ready(cx) {
            Poll::Ready(guard) => guard.ok(),
            Poll::Pending if retired => None,
            Poll::Pending => return Poll::Pending,
        };
        let errno = match take(socket.get_ref()) {
            Ok((client, address)) => {
                *accepted = true;
                worker.accepted(hosted, client, address);
                continue;
            }
            Err(errno) => failed(errno, hosted, worker, socket),
        };
        match errno {
            Some(Errno::EAGAIN) if retired => return Poll::Ready(Turn::Over),
            Some(Errno::EAGAIN) => {
                if let Some(mut guard) = guard {
                    guard.clear_ready();
                }
            }
            Some(_) => return Poll::Ready(Turn::Pause),
            None => {}
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// A client and its address.
fn take(listener: &Socket) -> Result<(Socket, SocketAddr), Errno> {
    let (client, address) = listener
        .accept4(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC)
        .map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    // Only IP sockets are listened on.
    address
        .as_socket()
        .map(|address| (client, address))
        .ok_or(Errno::EAFNOSUPPORT)
}

/// Counts an error of `accept`, if it is one, and gets on if that is possible: `None` when it is
/// worth trying again at once, `EAGAIN` when nobody waits.
fn failed(
    errno: Errno,
    hosted: &Hosted,
    worker: &Worker,
    socket: &AsyncFd<Socket>,
) -> Option<Errno> {
    match errno {
        Errno::EAGAIN => return Some(errno),
        Errno::EINTR => return None,
        _ => {}
    }
    let reason = reason(errno);
    worker.accept_failed(reason, errno);
    match reason {
        AcceptError::Network => None,
        AcceptError::Memory | AcceptError::Other => Some(errno),
        AcceptError::Fds => {
            let mut reserve = worker.reserve();
            let client = reserve.spend().then(|| take(socket.get_ref()));
            let after = match client {
                Some(Ok((client, _))) => {
                    hosted.refuse(client, Refusal::FdsExhausted);
                    None
                }
                Some(Err(errno)) => Some(errno),
                None => Some(errno),
            };
            if reserve.fill() { after } else { Some(errno) }
        }
    }
}

/// What kind of error of accept(2) this is.
const fn reason(errno: Errno) -> AcceptError {
    match errno {
        Errno::EMFILE | Errno::ENFILE => AcceptError::Fds,
        Errno::ENOBUFS | Errno::ENOMEM => AcceptError::Memory,
        // Errors of the connection itself, which accept(2) says are to be taken like EAGAIN.
        Errno::ECONNABORTED
        | Errno::ENETDOWN
        | Errno::EPROTO
        | Errno::ENOPROTOOPT
        | Errno::EHOSTDOWN
        | Errno::ENONET
        | Errno::EHOSTUNREACH
        | Errno::EOPNOTSUPP
        | Errno::ENETUNREACH => AcceptError::Network,
        _ => AcceptError::Other,
    }
}
