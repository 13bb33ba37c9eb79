//! Names and numbers shared by the lab's programs and the lab library: this one file is compiled
//! into both, so that neither can drift from the other.

/// The attacker's MAC address, in network order. The switch keeps what is sent to it; everything
/// else goes to the client.
pub const ATTACKER_MAC: [u8; 6] = [0x02, 0x00, 0x00, 0x00, 0x77, 0xfe];

/// The flood generator's maps.
pub mod flood {
    /// Slot of `FLOOD_STATE`: frames sent so far.
    pub const SENT: u32 = 0;
    /// Slot of `FLOOD_STATE`: when the next frame is due.
    pub const DUE: u32 = 1;
    /// How many slots there are.
    pub const COUNT: u32 = 2;
    /// Times are in units of 2^-10 ns, so that a rate of millions per second is met exactly.
    pub const TIME_SHIFT: u32 = 10;
    /// Most frames sent at once to make up for lost time: half of veth's receive ring.
    pub const BURST_MAX: u64 = 128;
    /// Words of the template.
    pub const TEMPLATE_WORDS: usize = 12;
    /// Longest template in bytes: Ethernet, IPv6 and a TCP header with 20 bytes of options take 94.
    pub const TEMPLATE_BYTES_MAX: usize = TEMPLATE_WORDS * 8;
}

/// Slots of the per-CPU counter array `LAB_COUNTERS`.
pub mod counter {
    /// SYN-ACKs sent to the attacker.
    pub const SYN_ACK: u32 = 0;
    /// Resets sent to the attacker.
    pub const RST: u32 = 1;
    /// Bare SYNs that came back to the attacker: what the `XDP_TX` floor returns.
    pub const SYN: u32 = 2;
    /// Anything else sent to the attacker.
    pub const OTHER: u32 = 3;
    /// Frames forwarded from the host to the client.
    pub const TO_CLIENT: u32 = 4;
    /// Frames forwarded from the client to the host.
    pub const TO_HOST: u32 = 5;
    /// Frames from the client that the loss rule took.
    pub const LOST: u32 = 6;
    /// Frames from the client that were lost by chance, as many as of the flood.
    pub const LOST_IN_FLOOD: u32 = 7;
    /// Frames to the client that were lost, by the loss rule or by chance.
    pub const LOST_TO_CLIENT: u32 = 8;
    /// How many slots there are.
    pub const COUNT: u32 = 9;
}

/// Ways through the switch.
pub mod direction {
    /// From the client to the host.
    pub const TO_HOST: u32 = 0;
    /// From the host to the client.
    pub const TO_CLIENT: u32 = 1;
    /// How many there are.
    pub const COUNT: u32 = 2;
}

/// Slots of the array `LAB_LOSS`, which holds one rule for each direction: the slot of one is
/// `direction * COUNT` plus one of these. A TCP segment matches when `flags & FLAGS_MASK == FLAGS`
/// and its payload is what `PAYLOAD` asks for.
pub mod loss {
    /// Which TCP flag bits are compared.
    pub const FLAGS_MASK: u32 = 0;
    /// What those bits must be.
    pub const FLAGS: u32 = 1;
    /// One of `PAYLOAD_*`.
    pub const PAYLOAD: u32 = 2;
    /// How many matching segments still go through before the first is lost.
    pub const SKIP: u32 = 3;
    /// How many matching segments are still to be lost; 0 disables the rule.
    pub const DROP: u32 = 4;
    /// How many slots a rule has.
    pub const COUNT: u32 = 5;

    /// Any payload, or none.
    pub const PAYLOAD_ANY: u32 = 0;
    /// Only segments without payload.
    pub const PAYLOAD_EMPTY: u32 = 1;
    /// Only segments with payload.
    pub const PAYLOAD_SOME: u32 = 2;
}

/// TCP flag bits (RFC 9293, section 3.1) that the lab tells apart.
pub mod tcp_flag {
    /// The sender has finished.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement field counts.
    pub const ACK: u8 = 0x10;
}

/// The program that restores a frame before the program under test runs.
pub mod restore {
    /// Words of the frame.
    pub const FRAME_WORDS: usize = 16;
    /// Longest frame in bytes: Ethernet, two tags, IPv6 and a TCP header with 20 bytes of options
    /// take 102.
    pub const FRAME_BYTES_MAX: usize = FRAME_WORDS * 8;
}
