//! One spliced connection, as it stands in the map `FLOWS`.
//!
//! Terms: the **client** side is between client and levee, the **target** side between levee and the
//! backend's address that serves this client. Sequence numbers of the client are the same on both
//! sides, because levee opens the target side with the client's own ISN; those of the target differ
//! by [`seq_delta`](Flow::seq_delta), for the client has seen a cookie.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::tuple::Addr;

/// A slot of the table that holds no connection.
pub const STATE_FREE: u32 = 0;
/// The handshake with the target is in progress: whatever comes, from either side, is the
/// controller's.
pub const STATE_PENDING: u32 = 1;
/// Both handshakes are complete: the data path translates and forwards.
pub const STATE_OPEN: u32 = 2;

/// Index of the client's side in arrays by side.
pub const CLIENT: usize = 0;
/// Index of the target's side in arrays by side.
pub const TARGET: usize = 1;

/// A FIN was seen from this side; [`Seen::fin`] is valid (RFC 9293 3.6).
pub const MARK_FIN: u32 = 1;
/// A RST that the other side must have accepted was seen from this side (RFC 5961 3.2: its sequence
/// number was exactly the one expected).
pub const MARK_RST: u32 = 1 << 1;
/// [`Seen::acked`] is valid.
pub const MARK_ACKED: u32 = 1 << 2;
/// The last segment from this side was a RST that the other side may have accepted: its sequence
/// number is behind data that the other side had not acknowledged when it passed.
pub const MARK_RST_LIKELY: u32 = 1 << 3;

/// Where frames towards a neighbour go: everything of layer 2.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Hop {
    /// Index of the interface; 0 for a hop that is not known.
    pub ifindex: u32,
    /// VLAN tags, outermost first: TPID in the upper and TCI in the lower half; 0 for none.
    pub tags: [u32; 2],
    /// The neighbour's MAC address.
    pub dst_mac: [u8; 6],
    /// The interface's MAC address.
    pub src_mac: [u8; 6],
    /// The controller's clock when the hop was last confirmed, as
    /// [`clock_s`](crate::abi::Control::clock_s).
    pub confirmed_s: u32,
}

/// What the data path writes into an open flow, about one side. Each side has one, so that packets
/// of both directions on two CPUs do not write the same words.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Seen {
    /// [`clock_s`](crate::abi::Control::clock_s) at the last packet from this side.
    pub at_s: u32,
    /// The highest acknowledgement number that this side sent, in its own numbering; with
    /// [`MARK_ACKED`].
    pub acked: u32,
    /// The sequence number behind this side's FIN, in its own numbering; with [`MARK_FIN`].
    pub fin: u32,
    /// `MARK_*`.
    pub marks: u32,
}

/// One connection. Two cache lines: what a packet is compared with and translated by, and what it
/// leaves behind.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Flow {
    /// The client's address.
    pub client: Addr,
    /// The source address towards the target: the client's (`dnat`) or one of the pool (`full`).
    pub nat: Addr,
    /// The client's port, host order.
    pub client_port: u16,
    /// The source port towards the target, host order.
    pub nat_port: u16,
    /// Id of the service, a slot in `SERVICE_STATS` and `SPLICED`.
    pub service: u16,
    /// Slot in `TARGETS`.
    pub target: u16,
    /// `STATE_*`. Written last when a flow is opened, first when it is closed.
    pub state: u32,
    /// What to add to the target's sequence numbers to get those that the client sees.
    pub seq_delta: u32,
    /// The same for the target's timestamps (RFC 7323 3).
    pub ts_delta: u32,
    /// Window scale that the client was offered: 0 to 14.
    pub offered_scale: u8,
    /// Window scale of the target's SYN-ACK; equal to `offered_scale` if neither scales.
    pub target_scale: u8,
    /// How far the client's windows are shifted left, because the target does not scale.
    pub client_shift: u8,
    /// 1 if both sides use timestamps.
    pub timestamps: u8,
    /// [`clock_s`](crate::abi::Control::clock_s) when the flow was opened.
    pub opened_s: u32,
    /// The client's initial sequence number: tells a late copy of the segment that opened this
    /// connection from one that opens another between the same addresses and ports.
    pub client_isn: u32,
    /// What was seen from each side, by [`CLIENT`] and [`TARGET`].
    pub seen: [Seen; 2],
    /// The way back to the client: where its last packet came from.
    pub hop: Hop,
    /// Explicit padding, zero.
    pub reserved_end: u32,
}

/// A slot of `TARGETS`: one address of a backend.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Target {
    /// Its address; all zero for a free slot.
    pub addr: Addr,
    /// Its port, host order.
    pub port: u16,
    /// Explicit padding, zero.
    pub reserved: [u8; 6],
    /// The way to it.
    pub hop: Hop,
    /// Explicit padding, zero.
    pub reserved_end: [u32; 3],
}

/// A slot of `SPLICED`, by service id: what the data path needs for packets back to clients.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Spliced {
    /// The service's address, which clients connect to.
    pub addr: Addr,
    /// Its port, host order.
    pub port: u16,
    /// Explicit padding, zero.
    pub reserved: [u8; 6],
}

/// Targets of all services together.
pub const TARGETS_MAX: u32 = 1024;

/// The TCP states of a spliced connection (RFC 9293 3.3.2) as they follow from what was seen of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowState {
    /// Levee's SYN to the target is not answered yet.
    SynSent,
    /// Open both ways.
    Established,
    /// The client has sent its FIN: CLOSE_WAIT at the target.
    ClientClosed,
    /// The target has sent its FIN: CLOSE_WAIT at the client.
    TargetClosed,
    /// Both have sent FINs, not both are acknowledged: CLOSING or LAST_ACK.
    Closing,
    /// Both FINs are acknowledged.
    TimeWait,
    /// Ended by RST.
    Closed,
}

impl FlowState {
    /// Whether the connection is only there to wait for late segments: a new one may take its place
    /// (RFC 9293 3.6.1, RFC 6191).
    #[must_use]
    #[inline(always)]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::TimeWait | Self::Closed)
    }
}

impl Flow {
    /// The state of the connection.
    #[must_use]
    pub const fn tcp_state(&self) -> FlowState {
        if self.state != STATE_OPEN {
            return FlowState::SynSent;
        }
        let [client, target] = self.seen;
        if (client.marks | target.marks) & MARK_RST != 0 {
            return FlowState::Closed;
        }
        match (client.marks & MARK_FIN != 0, target.marks & MARK_FIN != 0) {
            (false, false) => FlowState::Established,
            (true, false) => FlowState::ClientClosed,
            (false, true) => FlowState::TargetClosed,
            (true, true) => {
                // The target acknowledges the client's numbers as they are; the client those that
                // it sees.
                let client_fin_acked = reached(target, client.fin);
                let target_fin_acked = reached(client, target.fin.wrapping_add(self.seq_delta));
                if client_fin_acked && target_fin_acked {
                    FlowState::TimeWait
                } else {
                    FlowState::Closing
                }
            }
        }
    }

    /// As [`FlowState::is_over`].
    #[must_use]
    #[inline(always)]
    pub const fn is_over(&self) -> bool {
        self.tcp_state().is_over()
    }
}

/// Whether this side has acknowledged everything before `seq`, in its own numbering (RFC 9293 3.4:
/// modulo 2^32).
#[must_use]
pub const fn reached(side: Seen, seq: u32) -> bool {
    side.marks & MARK_ACKED != 0 && side.acked.wrapping_sub(seq) as i32 >= 0
}

const _: () = assert!(size_of::<Hop>() == 28);
const _: () = assert!(size_of::<Flow>() == 128);
const _: () = assert!(core::mem::offset_of!(Flow, seen) == 64);
const _: () = assert!(size_of::<Target>() == 64);
const _: () = assert!(size_of::<Spliced>() == 24);

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Flow {
        Flow {
            state: STATE_OPEN,
            seq_delta: 1000,
            ..Flow::default()
        }
    }

    #[test]
    fn states_follow_from_fins_and_their_acks() {
        let mut flow = open();
        assert_eq!(flow.tcp_state(), FlowState::Established);
        flow.seen[CLIENT].marks = MARK_FIN;
        flow.seen[CLIENT].fin = 2;
        assert_eq!(flow.tcp_state(), FlowState::ClientClosed);
        flow.seen[TARGET] = Seen {
            marks: MARK_FIN | MARK_ACKED,
            fin: u32::MAX,
            acked: 2,
            ..Seen::default()
        };
        assert_eq!(flow.tcp_state(), FlowState::Closing);
        flow.seen[CLIENT].marks |= MARK_ACKED;
        flow.seen[CLIENT].acked = 998;
        assert_eq!(flow.tcp_state(), FlowState::Closing, "one short of 999");
        flow.seen[CLIENT].acked = 999;
        assert_eq!(flow.tcp_state(), FlowState::TimeWait);
        flow.seen[TARGET].marks |= MARK_RST;
        assert_eq!(flow.tcp_state(), FlowState::Closed);
    }

    #[test]
    fn a_targets_fin_alone_leaves_the_client_in_close_wait() {
        let mut flow = open();
        flow.seen[TARGET].marks = MARK_FIN;
        assert_eq!(flow.tcp_state(), FlowState::TargetClosed);
        flow.state = STATE_PENDING;
        assert_eq!(flow.tcp_state(), FlowState::SynSent);
    }
}
