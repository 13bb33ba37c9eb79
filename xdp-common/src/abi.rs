//! The maps between the data path and the controller: names, keys, values and sizes.
//!
//! Values are `repr(C)`, padded explicitly and free of `bool`, `Option` and `enum`, so that both
//! halves agree on every byte.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{closing, cookie::Key, tuple::Addr};

/// Names of the maps, programs and globals of the eBPF object that the controller deals with.
pub mod names {
    /// `Array<Control>` with one element.
    pub const CONTROL: &str = "CONTROL";
    /// `Array<ServiceBucket>`: two generations of the service table.
    pub const SERVICES: &str = "SERVICES";
    /// `PerCpuArray<Counters>` by [`iface_slot`](super::iface_slot).
    pub const IFACE_STATS: &str = "IFACE_STATS";
    /// `PerCpuArray<Counters>` by service id.
    pub const SERVICE_STATS: &str = "SERVICE_STATS";
    /// `Array<ClosingMarks>` by [generation](crate::closing).
    pub const CLOSING: &str = "CLOSING";
    /// `LruHashMap<FragmentKey, u32>`: first fragments that were admitted.
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// `Array<Flow>`, memory-mapped: spliced connections.
    pub const FLOWS: &str = "FLOWS";
    /// `Array<Bucket>`, memory-mapped: where they are found.
    pub const FLOW_INDEX: &str = "FLOW_INDEX";
    /// `Array<Target>`: the backends' addresses.
    pub const TARGETS: &str = "TARGETS";
    /// `Array<Spliced>` by service id.
    pub const SPLICED: &str = "SPLICED";
    /// `XskMap` by [`xsk_slot`](super::xsk_slot): where the handshakes of spliced connections go.
    pub const XSKS: &str = "XSKS";
    /// `RingBuf` of [`Answered`](super::Answered).
    pub const ANSWERED: &str = "ANSWERED";
    /// `DevMap` by [`iface_slot`](super::iface_slot): where translated packets leave.
    pub const DEVICES: &str = "DEVICES";
    /// `ProgramArray`: the programs that judge packets of spliced connections.
    pub const JUMPS: &str = "JUMPS";
    /// `Array<u32>`: clients that may send early data.
    pub const EARLY: &str = "EARLY";
    /// `LruHashMap<TupleKey, u32>`: tuples handed to the kernel.
    pub const ADMITTED: &str = "ADMITTED";
    /// The XDP program.
    pub const XDP_PROGRAM: &str = "levee_xdp";
    /// The XDP programs that it hands packets over to, by slot of `JUMPS`.
    pub const JUMP_PROGRAMS: [&str; super::JUMPS_MAX as usize] = [
        "levee_to_target",
        "levee_to_client",
        "levee_icmp",
        "levee_handshake",
    ];
    /// The TC ingress program that turns a cookie into a socket.
    pub const TC_PROGRAM: &str = "levee_tc";
    /// The same for VLAN devices on top of an interface: segments with a second tag.
    pub const TC_INNER_PROGRAM: &str = "levee_tc_inner";
    /// The XDP program that returns the low 31 bits of jiffies, run by `BPF_PROG_TEST_RUN` only.
    pub const JIFFIES_PROGRAM: &str = "levee_jiffies";
    /// `u8` global: 1 verifies the TCP checksum of every SYN before answering it.
    pub const CHECK_SYN_CHECKSUM: &str = "CHECK_SYN_CHECKSUM";
    /// `u32` global: milliseconds per jiffy, rounded down, at least 1.
    pub const MS_PER_JIFFY: &str = "MS_PER_JIFFY";
}

/// Version of what the maps of [`PINNED`] mean. A controller takes over the maps of another only if
/// both have the same, so that no byte is ever read for another than it was written for.
///
/// To be raised whenever a key or a value of theirs changes its meaning or its place, or a hash by
/// which a place in them is found; a changed size is noticed without. Maps that are new start empty
/// and need nothing.
pub const VERSION: u32 = 1;

/// Maps that outlive the controller: one that starts takes them over from the one before, with all
/// they hold. What is not on this list is created anew with the programs: maps that a controller
/// fills before it attaches them, as [`DEVICES`](names::DEVICES); and program arrays, whatever is
/// here, because their entries belong to the programs that they were loaded with.
///
/// [`CONTROL`](names::CONTROL) is the last, because it is pinned last: it stands for the whole.
pub const PINNED: [&str; 12] = [
    names::SERVICES,
    names::IFACE_STATS,
    names::SERVICE_STATS,
    names::CLOSING,
    names::FRAGMENTS,
    names::EARLY,
    names::ADMITTED,
    names::FLOWS,
    names::FLOW_INDEX,
    names::TARGETS,
    names::SPLICED,
    names::CONTROL,
];

/// The helper number that stands for the kfunc `bpf_sk_assign_tcp_reqsk` (Linux 6.9) in the object:
/// the loader replaces the one call to it. No kernel has a helper of that number.
pub const KFUNC_SK_ASSIGN_TCP_REQSK: u32 = 0x5eed_0001;

/// Services that one data path protects at the same time.
///
/// At 512 bytes of counters each, they cost 2 MiB per CPU.
pub const SERVICES_MAX: u32 = 4096;

/// Addresses and services in one bucket of the service table: two cache lines.
pub const BUCKET_ENTRIES: usize = 4;

/// Buckets of one generation of the service table, a power of two.
///
/// [`SERVICES_MAX`] services on as many addresses and
/// [`TARGETS_MAX`](crate::splice::flow::TARGETS_MAX) targets make 9,216 entries, about half an entry
/// per bucket: of the seeds, about one in 120 then overfills no bucket. 2 MiB per generation.
pub const BUCKETS: u32 = 16_384;

/// Interfaces whose counters are told apart: slots of `IFACE_STATS`, a power of two.
pub const IFACES_MAX: u32 = 64;

/// Receive queues of one interface that packets can be handed over from, a power of two.
pub const QUEUES_MAX: u32 = 64;

/// The slot of `XSKS` for a receive queue of an interface.
pub const fn xsk_slot(ifindex: u32, queue: u32) -> u32 {
    iface_slot(ifindex) * QUEUES_MAX + (queue & (QUEUES_MAX - 1))
}

/// Slot of `JUMPS`: segments from clients to spliced services.
pub const JUMP_TO_TARGET: u32 = 0;
/// Slot of `JUMPS`: segments from targets.
pub const JUMP_TO_CLIENT: u32 = 1;
/// Slot of `JUMPS`: ICMP errors, which may be about spliced connections.
pub const JUMP_ICMP: u32 = 2;
/// Slot of `JUMPS`: segments from clients without a connection.
pub const JUMP_HANDSHAKE: u32 = 3;
/// Slots of `JUMPS`.
pub const JUMPS_MAX: u32 = 4;

/// Slots of one [`Counters`]; every [`Verdict`](crate::verdict::Verdict) has one.
pub const COUNTERS: usize = 64;

/// Admitted datagrams whose later fragments are awaited at the same time. The oldest goes first.
pub const FRAGMENTS_MAX: u32 = 16_384;

/// The slot of `IFACE_STATS` that an interface counts in. The controller refuses two interfaces
/// whose indexes fall into one slot.
pub const fn iface_slot(ifindex: u32) -> u32 {
    ifindex & (IFACES_MAX - 1)
}

/// What the controller tells the data path at run time.
///
/// The controller rewrites the whole value; only bytes that differ can be seen torn. It therefore
/// changes `keys` only in the slot not in use, and `generation` and `key_slot` are single bytes in
/// effect.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Control {
    /// Cookie keys by epoch slot (the lowest bit of the epoch number).
    pub keys: [Key; 2],
    /// Seed of the service table's hash, by generation.
    pub seeds: [u64; 2],
    /// Which generation of the service table is live: 0 or 1.
    pub generation: u32,
    /// Slot of the key that new cookies are made with: 0 or 1.
    pub key_slot: u32,
    /// Low 32 bits of the number of the epoch that `key_slot` belongs to, for the log.
    pub epoch: u32,
    /// The controller's clock in seconds, monotonic and wrapping, 1 at its start. Were it to stop,
    /// marks in `CLOSING` would add up, which costs socket lookups and nothing else.
    pub clock_s: u32,
    /// Seed of the flow table's index.
    pub flow_seed: u64,
    /// Buckets of the flow table's index less one; 0 where nothing is spliced.
    pub flow_mask: u32,
    /// Not 0 while the controller stops: only spliced connections are looked after then, and all
    /// else is the kernel's, but for who returns a cookie.
    pub stopping: u32,
}

/// One entry of the service table. All zero is an empty entry.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct ServiceEntry {
    /// Address of the service, IPv4 as IPv4-mapped.
    pub addr: Addr,
    /// Port in host order; 0 in an address entry.
    pub port: u16,
    /// `KIND_*`.
    pub kind: u16,
    /// Slot in `SERVICE_STATS`, below [`SERVICES_MAX`]; of a target, in `TARGETS`.
    pub id: u16,
    /// MSS offered in the SYN-ACK, bytes (RFC 9293 3.7.1).
    pub mss: u16,
    /// Window of the SYN-ACK, bytes, unscaled (RFC 7323 2.2).
    pub window: u16,
    /// Window scale offered in the SYN-ACK: 0 to 14 (RFC 7323 2.3).
    pub window_scale: u8,
    /// Options that may be offered: `OFFER_*`.
    pub offer: u8,
    /// How a proven client is served: `MODE_*`.
    pub mode: u8,
    /// Explicit padding, zero.
    pub reserved: [u8; 3],
}

/// No entry: the end of a bucket.
pub const KIND_EMPTY: u16 = 0;
/// An address that has at least one service; its port is 0.
pub const KIND_ADDRESS: u16 = 1;
/// A protected service.
pub const KIND_SERVICE: u16 = 2;
/// Where spliced connections lead: a backend's address and port.
pub const KIND_TARGET: u16 = 3;

/// By a socket of this machine's.
pub const MODE_KERNEL: u8 = 0;
/// By a target, to which the data path forwards.
pub const MODE_SPLICE: u8 = 1;

/// The SYN-ACK may carry timestamps (RFC 7323 3).
pub const OFFER_TIMESTAMPS: u8 = 1;
/// The SYN-ACK may permit selective acknowledgement (RFC 2018 2).
pub const OFFER_SACK: u8 = 2;
/// The SYN-ACK may carry a window scale (RFC 7323 2).
pub const OFFER_WINDOW_SCALE: u8 = 4;
/// The SYN-ACK may agree to ECN (RFC 3168 6.1.1).
pub const OFFER_ECN: u8 = 8;

/// One bucket of the service table, filled from the front.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct ServiceBucket {
    /// Entries; the first empty one ends the search.
    pub entries: [ServiceEntry; BUCKET_ENTRIES],
}

/// Packets counted by [`Verdict`](crate::verdict::Verdict).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Counters {
    /// Packets, by the verdict's number.
    pub packets: [u64; COUNTERS],
}

/// One generation of `CLOSING`: a bit for every place that a connection's hash may choose.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ClosingMarks {
    /// Marks, where [`Place`](crate::closing::Place) says.
    pub words: [u64; closing::WORDS],
}

/// Slots of `EARLY`, a power of two: 512 KiB. Who hashes to a slot taken less than a second ago
/// takes it over; at 10,000 new clients per second that happens to one in 13.
pub const EARLY_SLOTS: u32 = 131_072;

/// A slot of `EARLY` counts for this many ticks of 256 ms: the first round trips of a connection.
pub const EARLY_TICKS_MAX: u8 = 4;

/// Tuples handed to the kernel that are remembered for a moment. The oldest go first.
pub const ADMITTED_MAX: u32 = 16_384;

/// Identifies one connection, exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TupleKey {
    /// The client's address.
    pub src: Addr,
    /// The service's address.
    pub dst: Addr,
    /// Both ports, as [`Tuple::ports`](crate::tuple::Tuple::ports) packs them.
    pub ports: u32,
    /// Explicit padding, zero.
    pub reserved: u32,
}

/// Identifies one fragmented datagram (RFC 791 3.2, RFC 8200 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FragmentKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Identification: 16 bits in IPv4, 32 in IPv6.
    pub id: u32,
    /// Explicit padding, zero.
    pub reserved: u32,
}

/// Room for every SYN-ACK: Ethernet, two VLAN tags, IPv6, TCP and the options, bytes. A power of
/// two.
pub const ANSWERED_FRAME_MAX: usize = 128;

/// SYN-ACKs that a CPU tells of in a second at most.
pub const ANSWERED_PER_SECOND_MAX: u32 = 512;

/// A SYN-ACK to a client of a spliced service, as it was sent.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Answered {
    /// The interface that it left through, by its index.
    pub ifindex: u32,
    /// Length of the frame, bytes.
    pub len: u32,
    /// The frame; what is behind its end means nothing.
    pub frame: [u8; ANSWERED_FRAME_MAX],
}

const _: () = assert!(size_of::<Answered>() == 136);
const _: () = assert!(size_of::<Control>() == 80);
const _: () = assert!(size_of::<ServiceEntry>() == 32);
const _: () = assert!(size_of::<ServiceBucket>() == 128);
const _: () = assert!(size_of::<Counters>() == 512);
const _: () = assert!(size_of::<ClosingMarks>() == 64 * 1024);
const _: () = assert!(size_of::<FragmentKey>() == 40);
const _: () = assert!(size_of::<TupleKey>() == 40);
const _: () = assert!(BUCKETS.is_power_of_two() && IFACES_MAX.is_power_of_two());
const _: () = assert!(EARLY_SLOTS.is_power_of_two());
const _: () = assert!(SERVICES_MAX <= 1 << 16, "a service id is 16 bits");
