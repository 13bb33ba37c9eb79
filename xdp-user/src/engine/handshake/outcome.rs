//! How handshakes end, and what happens on the way: labels of metrics.

use crate::engine::reason::ConnectError;

labels! {
    /// What became of a client that returned its cookie.
    Outcome {
        /// A target took it; the data path forwards.
        Established = "established",
        /// The client sent a RST before a target had answered.
        ClientReset = "client_reset",
        /// The client has begun another handshake from the same port.
        Superseded = "superseded",
        /// No target may get connections. RST to the client, as for all that follow unless they say
        /// otherwise.
        NoTarget = "no_target",
        /// Every target that was tried refused; the last one did.
        Refused = "refused",
        /// The last target that was tried did not answer in time.
        Timeout = "timeout",
        /// The neighbour on the way to the last target that was tried was not found in time.
        Unreachable = "unreachable",
        /// The client's address and port, or all those of the pool, are in use towards every
        /// target that was tried.
        SourceInUse = "source_in_use",
        /// The flow table is full.
        TableFull = "table_full",
        /// The flow table's index has no room for this flow.
        IndexFull = "index_full",
        /// As many handshakes are in progress as may be. The client is told nothing: its next
        /// segment may find room.
        HalfOpenFull = "half_open_full",
        /// An operator ended it.
        Aborted = "aborted",
    }
}

impl Outcome {
    /// How a handshake ends whose last attempt failed so.
    #[must_use]
    pub const fn after(error: ConnectError) -> Self {
        match error {
            ConnectError::Refused => Self::Refused,
            ConnectError::Timeout => Self::Timeout,
            ConnectError::NoLocalPort => Self::SourceInUse,
            ConnectError::Unreachable | ConnectError::Fds | ConnectError::Other => {
                Self::Unreachable
            }
        }
    }
}

labels! {
    /// What happens in handshakes besides their ends.
    Notice {
        /// A SYN-ACK to a client was sent again, because no ACK of it came.
        SynAckRepeated = "syn_ack_repeated",
        /// A SYN to a target was sent again.
        SynRetransmitted = "syn_retransmitted",
        /// Another target was tried after one failed.
        FailedOver = "failed_over",
        /// A SYN could not be sent, because the target's neighbour is not resolved.
        HopUnknown = "hop_unknown",
        /// A target acknowledged what was not sent, having another connection in mind: it got a RST
        /// (RFC 9293 3.10.7.3).
        WrongAck = "wrong_ack",
        /// A target did not agree to an option that the client was offered: the service offers
        /// more than this target can do.
        OptionMissing = "option_missing",
        /// A flow that was over made way for a new connection with the same addresses and ports.
        FlowReused = "flow_reused",
        /// A SYN came for a handshake in progress: it was challenged (RFC 9293 3.10.7.4).
        SynChallenged = "syn_challenged",
    }
}
