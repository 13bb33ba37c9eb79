//! Why things end: every enum here is the label of a metric.

labels! {
    /// How a proxied connection ended. Every connection ends exactly once.
    CloseReason {
        /// Both sides sent their FIN and everything was passed on.
        Finished = "finished",
        /// The client sent a RST.
        ClientReset = "client_reset",
        /// The backend sent a RST.
        BackendReset = "backend_reset",
        /// The client no longer answers: keepalive or retransmissions gave up.
        ClientTimedOut = "client_timed_out",
        /// The backend no longer answers: keepalive or retransmissions gave up.
        BackendTimedOut = "backend_timed_out",
        /// The route to the client is gone.
        ClientUnreachable = "client_unreachable",
        /// The route to the backend is gone.
        BackendUnreachable = "backend_unreachable",
        /// No backend was usable.
        NoBackend = "no_backend",
        /// Every backend that was tried refused.
        ConnectRefused = "connect_refused",
        /// No backend that was tried answered in time.
        ConnectTimeout = "connect_timeout",
        /// No backend that was tried could be reached.
        ConnectUnreachable = "connect_unreachable",
        /// Connecting failed otherwise.
        ConnectFailed = "connect_failed",
        /// No local port was free towards the backend.
        NoLocalPort = "no_local_port",
        /// Nothing was sent within the first-byte timeout.
        FirstByteTimeout = "first_byte_timeout",
        /// Nothing was sent for the idle timeout.
        IdleTimeout = "idle_timeout",
        /// The client had closed, and the backend sent nothing for the timeout.
        CloseWaitTimeout = "close_wait_timeout",
        /// The backend had closed, and the client sent nothing for the timeout.
        FinWaitTimeout = "fin_wait_timeout",
        /// The upstream's PROXY header did not come in time.
        HeaderTimeout = "header_timeout",
        /// What came was not a PROXY header, or one that is not allowed.
        HeaderInvalid = "header_invalid",
        /// Made room for another in the half-open queue.
        HalfOpenEvicted = "half_open_evicted",
        /// An operator ended it.
        Killed = "killed",
        /// It outlasted the time that a stop gives.
        DrainTimeout = "drain_timeout",
        /// A limit refused it after its PROXY header told who the client is.
        Refused = "refused",
        /// No file descriptor was left for the backend's side.
        FdsExhausted = "fds_exhausted",
        /// The kernel failed otherwise.
        Io = "io",
    }
}

impl CloseReason {
    /// Whether levee ended it because its time was over.
    #[must_use]
    pub const fn is_reaped(self) -> bool {
        matches!(
            self,
            Self::ConnectTimeout
                | Self::FirstByteTimeout
                | Self::IdleTimeout
                | Self::CloseWaitTimeout
                | Self::FinWaitTimeout
                | Self::HeaderTimeout
                | Self::HalfOpenEvicted
                | Self::DrainTimeout
        )
    }
}

labels! {
    /// Why a client was turned away, with a RST, before a backend was asked.
    Refusal {
        /// Connections of this client's address.
        ClientConnections = "client_connections",
        /// Connections of this client's /24 or /64.
        PrefixConnections = "prefix_connections",
        /// Connections of the service.
        ServiceConnections = "service_connections",
        /// Connections of the whole proxy.
        TotalConnections = "total_connections",
        /// New connections per second of this client.
        ClientRate = "client_rate",
        /// The half-open queue holds only clients that have spoken.
        HalfOpenFull = "half_open_full",
        /// File descriptors.
        FdsExhausted = "fds_exhausted",
        /// The service takes PROXY headers only, and this upstream is not on its list.
        UntrustedHeader = "untrusted_header",
    }
}

labels! {
    /// Why one attempt to connect to a backend failed.
    ConnectError {
        /// RST in answer to the SYN.
        Refused = "refused",
        /// No answer within the connect timeout.
        Timeout = "timeout",
        /// No route, or ICMP said so.
        Unreachable = "unreachable",
        /// No local port left (`EADDRNOTAVAIL`).
        NoLocalPort = "no_local_port",
        /// No file descriptor left.
        Fds = "fds",
        /// Any other error.
        Other = "other",
    }
}

impl ConnectError {
    /// How the connection ends when this was the last attempt.
    #[must_use]
    pub const fn close_reason(self) -> CloseReason {
        match self {
            Self::Refused => CloseReason::ConnectRefused,
            Self::Timeout => CloseReason::ConnectTimeout,
            Self::Unreachable => CloseReason::ConnectUnreachable,
            Self::NoLocalPort => CloseReason::NoLocalPort,
            Self::Fds => CloseReason::FdsExhausted,
            Self::Other => CloseReason::ConnectFailed,
        }
    }

    /// Whether it tells something about the backend, and not only about this machine.
    #[must_use]
    pub const fn blames_backend(self) -> bool {
        matches!(self, Self::Refused | Self::Timeout | Self::Unreachable)
    }
}

labels! {
    /// Why `accept` failed.
    AcceptError {
        /// No file descriptor left, of the process or of the system.
        Fds = "fds",
        /// No memory for a socket.
        Memory = "memory",
        /// The connection was gone already, or its network failed.
        Network = "network",
        /// Any other error.
        Other = "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_positions_and_labels_differ() {
        for (position, reason) in CloseReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), position);
            let same = CloseReason::ALL
                .iter()
                .filter(|r| r.label() == reason.label());
            assert_eq!(same.count(), 1, "{}", reason.label());
        }
    }
}
