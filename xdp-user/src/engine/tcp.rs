//! The two legs of a proxied connection, with the TCP states of RFC 9293 3.3.2.
//!
//! The kernel keeps the real state of each socket. This is the state as it follows from what the
//! proxy sees and does: the peer's FIN is seen as the end of the data, its own as its call of
//! `shutdown`. The ACK of its own FIN is not seen, so FIN_WAIT_1 stands for FIN_WAIT_2 too until
//! the kernel is asked.

use std::fmt;

/// One of a proxied connection's two TCP connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Between client and levee.
    Client,
    /// Between levee and backend.
    Backend,
}

impl Side {
    /// Both, in the order of their [index](Self::index).
    pub const ALL: [Self; 2] = [Self::Client, Self::Backend];

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Backend,
            Self::Backend => Self::Client,
        }
    }

    /// 0 for the client, 1 for the backend.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Backend => "backend",
        }
    }
}

labels! {
    /// State of a leg (RFC 9293 3.3.2), labelled as `ss` and the RFC write it, with underscores.
    /// LISTEN is the listener's, not a connection's.
    TcpState {
        /// The proxy's SYN was sent to the backend.
        SynSent = "SYN_SENT",
        /// A client's SYN was answered, its ACK not yet seen.
        SynReceived = "SYN_RECEIVED",
        /// Open both ways.
        Established = "ESTABLISHED",
        /// The proxy's FIN was sent.
        FinWait1 = "FIN_WAIT_1",
        /// The proxy's FIN was acknowledged.
        FinWait2 = "FIN_WAIT_2",
        /// The peer's FIN was received, the proxy has more to send.
        CloseWait = "CLOSE_WAIT",
        /// Both FINs crossed.
        Closing = "CLOSING",
        /// The peer's FIN was received, then the proxy's sent.
        LastAck = "LAST_ACK",
        /// The proxy's FIN was acknowledged, then the peer's received.
        TimeWait = "TIME_WAIT",
        /// No connection.
        Closed = "CLOSED",
    }
}

impl TcpState {
    /// The state of a label; `None` for any other word.
    #[must_use]
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|state| state.label() == label)
    }

    /// The handshake is complete (RFC 9293 3.10.7.3).
    #[must_use]
    pub const fn on_connected(self) -> Self {
        match self {
            Self::SynSent | Self::SynReceived => Self::Established,
            other => other,
        }
    }

    /// The peer's FIN was received (RFC 9293 3.10.7.4, "check the FIN bit").
    #[must_use]
    pub const fn on_fin_received(self) -> Self {
        match self {
            Self::SynReceived | Self::Established => Self::CloseWait,
            Self::FinWait1 => Self::Closing,
            Self::FinWait2 => Self::TimeWait,
            other => other,
        }
    }

    /// The proxy has closed its direction (RFC 9293 3.10.4).
    #[must_use]
    pub const fn on_fin_sent(self) -> Self {
        match self {
            Self::SynReceived | Self::Established => Self::FinWait1,
            Self::CloseWait => Self::LastAck,
            other => other,
        }
    }

    /// The proxy's FIN was acknowledged (RFC 9293 3.10.7.4, "check the ACK field").
    #[must_use]
    pub const fn on_fin_acked(self) -> Self {
        match self {
            Self::FinWait1 => Self::FinWait2,
            Self::Closing => Self::TimeWait,
            Self::LastAck => Self::Closed,
            other => other,
        }
    }
}

impl fmt::Display for TcpState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_and_labels_are_those_of_the_list() {
        for (position, &state) in TcpState::ALL.iter().enumerate() {
            assert_eq!(state.index(), position);
            assert_eq!(TcpState::from_label(state.label()), Some(state));
        }
        assert_eq!(TcpState::from_label("LISTEN"), None);
    }

    #[test]
    fn the_ways_from_established_to_closed() {
        let open = TcpState::SynSent.on_connected();
        let passive = open.on_fin_received().on_fin_sent();
        assert_eq!(passive, TcpState::LastAck);
        assert_eq!(passive.on_fin_acked(), TcpState::Closed);
        let active = open.on_fin_sent().on_fin_acked();
        assert_eq!(active, TcpState::FinWait2);
        assert_eq!(active.on_fin_received(), TcpState::TimeWait);
        let both = open.on_fin_sent().on_fin_received();
        assert_eq!(both, TcpState::Closing);
        assert_eq!(both.on_fin_acked(), TcpState::TimeWait);
    }
}
