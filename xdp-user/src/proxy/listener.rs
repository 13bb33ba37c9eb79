//! Listening sockets: one per service and worker, in one group of `SO_REUSEPORT`.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use anyhow::{Context as _, Result};
use nix::{errno::Errno, libc};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::{runtime::ServiceRuntime, worker::Worker};

/// Connections that may wait for `accept`. The kernel takes `net.core.somaxconn` where that is
/// less.
const BACKLOG: i32 = 4096;

/// Connections accepted before others get their turn.
const TURN_ACCEPTS: u32 = 64;

/// Makes the listening socket of one worker. What is set on it, accepted sockets inherit.
///
/// Its buffers stay as the system has them: the data path computes windows from those.
///
/// # Errors
/// Fails when the address is in use or not one of this machine.
pub(super) fn bind(address: SocketAddr) -> Result<Socket> {
    listening(address).with_context(|| format!("cannot listen at {address}"))
}

fn listening(address: SocketAddr) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// A service at one worker.
#[derive(Debug)]
pub(super) struct Hosted {
    runtime: RefCell<Arc<ServiceRuntime>>,
    retired: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Hosted {
    /// A service whose clients will be accepted.
    pub(super) fn new(runtime: Arc<ServiceRuntime>) -> Self {
        Self {
            runtime: RefCell::new(runtime),
            retired: Cell::new(false),
            waker: RefCell::new(None),
        }
    }

    /// Serves new clients as configured in `runtime`.
    pub(super) fn replace(&self, runtime: Arc<ServiceRuntime>) {
        self.runtime.replace(runtime);
    }

    /// The service as configured now.
    pub(super) fn runtime(&self) -> Arc<ServiceRuntime> {
        Arc::clone(&self.runtime.borrow())
    }

    /// Lets the listener close as soon as nobody waits to be accepted.
    pub(super) fn retire(&self) {
        self.retired.set(true);
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Accepts clients until the service is [retired](Self::retire).
    pub(super) async fn accept(self: Rc<Self>, worker: Rc<Worker>, socket: AsyncFd<Socket>) {
        poll_fn(|cx| self.poll_accept(cx, &worker, &socket)).await;
    }

    fn poll_accept(
        self: &Rc<Self>,
        cx: &mut Context<'_>,
        worker: &Rc<Worker>,
        socket: &AsyncFd<Socket>,
    ) -> Poll<()> {
        self.waker.replace(Some(cx.waker().clone()));
        for _ in 0..TURN_ACCEPTS {
            let ready = socket.poll_read_ready(cx);
            // A retired listener is closed only when `accept` itself says that nobody waits:
            // closing it resets who does.
            if ready.is_pending() && !self.retired.get() {
                return Poll::Pending;
            }
            let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
            match socket.get_ref().accept4(flags) {
                Ok((client, address)) => {
                    if let Some(address) = address.as_socket() {
                        worker.accepted(self, client, address);
                    }
                }
                Err(error) if error.raw_os_error() == Some(Errno::EAGAIN as i32) => {
                    if self.retired.get() {
                        return Poll::Ready(());
                    }
                    if let Poll::Ready(Ok(mut guard)) = ready {
                        guard.clear_ready();
                    }
                }
                Err(_) => {}
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
