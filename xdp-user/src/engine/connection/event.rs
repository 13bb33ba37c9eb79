//! What the engine is told, and what it answers.

use std::array;

use crate::engine::{
    reason::{CloseReason, ConnectError},
    tcp::Side,
};

/// What happened to a connection.
///
/// An event that means nothing in the connection's phase, because it was on its way while the
/// phase changed, is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first one: `accept` returned it.
    Accepted {
        /// Whether the client is an upstream that has to send a PROXY header first.
        header_expected: bool,
    },
    /// The PROXY header is complete and was taken out of the socket.
    Header,
    /// What came is no PROXY header, or one that is not allowed.
    HeaderInvalid,
    /// Answers [`Action::Admit`]: limits and half-open queue have a place for it.
    Admitted,
    /// Answers [`Action::Admit`]: they have not.
    Refused,
    /// Answers [`Action::Connect`]: no backend is usable.
    NoBackend,
    /// Answers [`Action::Connect`]: the attempt failed.
    ConnectFailed(ConnectError),
    /// Answers [`Action::Connect`]: the backend's SYN-ACK is there.
    Connected,
    /// This side's FIN was read. Bytes before it may still wait to be written to the other side.
    FinReceived(Side),
    /// This side's FIN was read, and every byte before it was written to the other side. Needs no
    /// [`FinReceived`](Self::FinReceived) before it.
    Fin(Side),
    /// The kernel says that this side acknowledged the proxy's FIN.
    FinAcked(Side),
    /// This side sent a RST: `ECONNRESET`, or `EPIPE` once its FIN was read.
    Reset {
        /// Who sent it.
        side: Side,
        /// Whether bytes from it are still on their way to the other side: in its socket, in the
        /// proxy, or unsent in the other side's socket.
        unsent: bool,
    },
    /// The connection to this side broke without a RST.
    Error {
        /// Which one.
        side: Side,
        /// How.
        kind: LegError,
        /// As in [`Reset`](Self::Reset).
        unsent: bool,
    },
    /// Answers [`Action::AwaitFlush`]: this side was sent everything.
    Flushed(Side),
    /// The time that was set in the wheel has come. Whether that means anything is for the engine
    /// to say: bytes move the deadline without a word to the wheel.
    Timer,
    /// The half-open queue gave its place to another. Ignored once it is connected.
    Evicted,
    /// An operator ended it.
    Killed,
    /// The proxy is being stopped. What runs goes on, but a failed connect is not tried again.
    Draining,
    /// The time that a stop gives is over.
    DrainExpired,
}

/// How a leg broke without a RST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegError {
    /// `ETIMEDOUT`: keepalive or retransmissions gave up.
    TimedOut,
    /// `EHOSTUNREACH`, `ENETUNREACH`: the route is gone.
    Unreachable,
    /// Any other error.
    Other,
}

impl LegError {
    /// How a connection ends when this side of it broke.
    #[must_use]
    pub const fn close_reason(self, side: Side) -> CloseReason {
        match (self, side) {
            (Self::TimedOut, Side::Client) => CloseReason::ClientTimedOut,
            (Self::TimedOut, Side::Backend) => CloseReason::BackendTimedOut,
            (Self::Unreachable, Side::Client) => CloseReason::ClientUnreachable,
            (Self::Unreachable, Side::Backend) => CloseReason::BackendUnreachable,
            (Self::Other, _) => CloseReason::Io,
        }
    }

    /// The same while the backend's side was not connected yet.
    #[must_use]
    pub const fn connect_error(self) -> ConnectError {
        match self {
            Self::TimedOut => ConnectError::Timeout,
            Self::Unreachable => ConnectError::Unreachable,
            Self::Other => ConnectError::Other,
        }
    }
}

/// What the driver has to do, in the order given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask limits and half-open queue for a place; answer with [`Event::Admitted`] or
    /// [`Event::Refused`].
    Admit,
    /// Pick a backend, one that was not tried yet if there is one, and connect; answer with
    /// [`Event::Connected`], [`Event::ConnectFailed`] or [`Event::NoBackend`].
    Connect,
    /// The connect in progress took too long: close its socket and count
    /// [`ConnectError::Timeout`] for its backend. [`Connect`](Self::Connect) or
    /// [`CloseBoth`](Self::CloseBoth) follows.
    AbandonConnect,
    /// Start to copy both ways, and give the place in the half-open queue back.
    Open,
    /// Send a FIN to this side.
    ShutdownWrite(Side),
    /// Go on copying to this side what the other had sent before it broke. When all is written,
    /// look from time to time whether the kernel has sent it, and then tell
    /// [`Event::Flushed`]. Nothing is copied to the other side any more.
    AwaitFlush(Side),
    /// Send a RST to this side and close its socket, at whatever cost to unsent bytes.
    Reset(Side),
    /// Close what is still open and forget the connection. The last action of every connection,
    /// and exactly one.
    CloseBoth(CloseReason),
}

/// A few actions, in order. Never allocates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Actions([Option<Action>; Self::MAX]);

impl Actions {
    /// The longest answer: a RST to both sides and the end.
    const MAX: usize = 3;

    /// Nothing to do.
    pub(super) const NONE: Self = Self([None; Self::MAX]);

    pub(super) const fn one(action: Action) -> Self {
        Self([Some(action), None, None])
    }

    /// Appends one.
    pub(super) fn push(&mut self, action: Action) {
        let free = self.0.iter_mut().find(|place| place.is_none());
        debug_assert!(free.is_some(), "no place for {action:?}");
        if let Some(free) = free {
            *free = Some(action);
        }
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0[0].is_none()
    }
}

impl IntoIterator for Actions {
    type Item = Action;
    type IntoIter = std::iter::Flatten<array::IntoIter<Option<Action>, { Self::MAX }>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter().flatten()
    }
}
