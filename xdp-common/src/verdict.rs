//! What the data path decides about a packet, and why. One enum end to end: it is the result of
//! the program, the index of the counter and the label of the metric.

use crate::abi::COUNTERS;

/// What happens to the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It goes on to the kernel's stack.
    Pass,
    /// It was rewritten into an answer and leaves where it came in.
    Reply,
    /// It ends here.
    Drop,
    /// It goes on elsewhere: to the other side of a spliced connection, or to the controller.
    Redirect,
}

impl Action {
    /// Every action, in the order of [`Verdict::ALL`].
    pub const ALL: [Self; 4] = [Self::Pass, Self::Reply, Self::Drop, Self::Redirect];

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Reply => "tx",
            Self::Drop => "drop",
            Self::Redirect => "redirect",
        }
    }
}

macro_rules! verdicts {
    ($($(#[$doc:meta])* $name:ident = $number:literal $action:ident $label:literal,)*) => {
        /// The decision on one packet of the XDP program, with its reason.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Verdict {
            $($(#[$doc])* $name = $number,)*
        }

        impl Verdict {
            /// Every verdict, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// What happens to the packet.
            #[inline(always)]
            pub const fn action(self) -> Action {
                match self { $(Self::$name => Action::$action,)* }
            }

            /// The reason, as the metric label `reason`.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

verdicts! {
    /// Not IPv4 or IPv6, or a header that cannot be read: the kernel judges it.
    NotIp = 0 Pass "not_ip",
    /// IP, but not TCP.
    NotTcp = 1 Pass "not_tcp",
    /// TCP to an address and port that is no service.
    NoService = 2 Pass "no_service",
    /// A segment of a connection that the kernel has a socket for.
    Connection = 3 Pass "connection",
    /// The first segment of a client that returned a valid cookie. The TC program makes its socket.
    CookieValid = 4 Pass "cookie_valid",
    /// A SYN for a tuple whose old socket is still closing: only that socket can answer it rightly
    /// (RFC 9293 3.6.1, RFC 6191).
    SynToClosing = 5 Pass "syn_to_closing",
    /// A later fragment of a datagram whose first fragment was passed.
    Fragment = 6 Pass "fragment",
    /// An initial SYN, answered with a cookie.
    SynAck = 7 Reply "syn_ack",
    /// IP version, header length or total length contradict the frame.
    IpHeader = 8 Drop "ip_header",
    /// The segment is shorter than its TCP header says, or the header than 20 bytes.
    TcpHeader = 9 Drop "tcp_header",
    /// More IPv6 extension headers than are followed, or one cut short.
    Ipv6Extension = 10 Drop "ipv6_extension",
    /// A first fragment too short to hold the TCP header (RFC 1858 3).
    FragmentTiny = 11 Drop "fragment_tiny",
    /// A fragmented SYN: no stack sends one.
    FragmentSyn = 12 Drop "fragment_syn",
    /// A later fragment whose first fragment has not been passed.
    FragmentUnknown = 13 Drop "fragment_unknown",
    /// No flag at all.
    FlagsNull = 14 Drop "flags_null",
    /// Neither SYN, RST nor ACK, as in a Christmas tree packet. Every other segment of a connection
    /// has ACK (RFC 9293 3.10.7.4).
    FlagsNoAck = 15 Drop "flags_no_ack",
    /// SYN together with FIN.
    FlagsSynFin = 16 Drop "flags_syn_fin",
    /// SYN together with RST.
    FlagsSynRst = 17 Drop "flags_syn_rst",
    /// A SYN-ACK that no socket waits for.
    SynAckUnexpected = 18 Drop "syn_ack_unexpected",
    /// A SYN whose TCP checksum is wrong.
    SynChecksum = 19 Drop "syn_checksum",
    /// A SYN from an address nobody connects from, or from the service's own address and port.
    SourceInvalid = 20 Drop "source_invalid",
    /// A segment with ACK, of no connection, whose acknowledgement is no valid cookie.
    CookieInvalid = 21 Drop "cookie_invalid",
    /// A RST for no connection.
    RstNoConnection = 22 Drop "rst_no_connection",
    /// The answer to a SYN, or a translated segment, could not be built in the frame.
    ReplyFailed = 23 Drop "reply_failed",
    /// A further segment of a client whose cookie was valid just now, before its socket is there.
    Early = 24 Pass "early",
    /// A segment of a spliced connection whose time to live ends here (RFC 1812 5.3.1).
    TtlExpired = 25 Drop "ttl_expired",
    /// A segment of a spliced connection from its client, translated and forwarded.
    ToTarget = 26 Redirect "to_target",
    /// One from its target.
    ToClient = 27 Redirect "to_client",
    /// A segment that belongs to the handshake of a spliced connection: the controller judges it.
    Handshake = 28 Redirect "handshake",
    /// Such a segment, while there is no controller to judge it.
    EngineAbsent = 29 Drop "engine_absent",
    /// A segment of a spliced connection whose other side cannot be reached: its neighbour is not
    /// resolved, or is behind an interface that levee does not run on.
    NextHopUnknown = 30 Drop "next_hop_unknown",
    /// A fragment of a segment of a spliced connection.
    FragmentSpliced = 31 Drop "fragment_spliced",
    /// An ICMP error about a spliced connection, translated and forwarded.
    IcmpError = 32 Redirect "icmp_error",
}

impl Verdict {
    /// Whether the packet is such as no correct stack sends, of which the log shows samples.
    #[inline(always)]
    pub const fn is_malformed(self) -> bool {
        matches!(
            self,
            Self::IpHeader
                | Self::TcpHeader
                | Self::Ipv6Extension
                | Self::FragmentTiny
                | Self::FragmentSyn
                | Self::FlagsNull
                | Self::FlagsNoAck
                | Self::FlagsSynFin
                | Self::FlagsSynRst
                | Self::SynChecksum
                | Self::SourceInvalid
        )
    }

    /// The slot in [`Counters`](crate::abi::Counters).
    #[inline(always)]
    pub const fn slot(self) -> usize {
        self as usize
    }
}

/// What the TC program did with a segment whose cookie is valid. Counted by service, in the slots
/// of [`Counters`](crate::abi::Counters) behind those of [`Verdict`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Admission {
    /// Handed to the kernel, to make a socket of it if the accept queue has room.
    Admitted = 33,
    /// Nobody listens: the kernel answers with RST, as it would without levee.
    NoListener = 34,
    /// The kernel refused to make a socket; the segment went on without one.
    Refused = 35,
}

impl Admission {
    /// Every outcome, in the order of its number.
    pub const ALL: [Self; 3] = [Self::Admitted, Self::NoListener, Self::Refused];

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::NoListener => "no_listener",
            Self::Refused => "refused",
        }
    }

    /// The slot in [`Counters`](crate::abi::Counters).
    #[inline(always)]
    pub const fn slot(self) -> usize {
        self as usize
    }
}

const _: () = assert!(Verdict::ALL.len() == Admission::Admitted.slot());
const _: () = assert!(Admission::Refused.slot() < COUNTERS);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_are_the_positions() {
        for (position, verdict) in Verdict::ALL.iter().enumerate() {
            assert_eq!(verdict.slot(), position, "{verdict:?}");
        }
    }

    #[test]
    fn labels_are_unique_metric_labels() {
        let labels: HashSet<_> = Verdict::ALL.iter().map(|v| v.label()).collect();
        assert_eq!(labels.len(), Verdict::ALL.len());
        for label in labels {
            assert!(
                label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'_' || b == b'6')
            );
        }
    }
}
