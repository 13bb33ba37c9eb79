//! Control of the switch program between the lab's namespaces: counters and the loss rule.
use anyhow::{Context as _, Result};
use aya::{
    maps::{Array, PerCpuArray},
    programs::XdpMode,
};

use crate::{
    abi::{counter, loss},
    link::ifindex,
    netns::Netns,
    object::Object,
};

/// What the switch has seen so far, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// SYN-ACKs that went to spoofed sources: SYNs answered.
    pub syn_ack: u64,
    /// Resets that went to spoofed sources.
    pub rst: u64,
    /// SYNs that came straight back, as from `lab_tx`.
    pub syn: u64,
    /// Anything else that went to spoofed sources.
    pub other: u64,
    /// Frames from the host to the client.
    pub to_client: u64,
    /// Frames from the client to the host.
    pub to_host: u64,
    /// Frames from the client that the loss rule took.
    pub lost: u64,
}

/// Which segments from the client are lost on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LossRule {
    /// TCP flag bits that are compared (see [`tcp_flag`](crate::abi::tcp_flag)).
    pub flags_mask: u8,
    /// What those bits must be.
    pub flags: u8,
    /// Whether the segment must carry data.
    pub payload: Payload,
    /// How many matching segments go through before the first is lost.
    pub skip: u32,
    /// How many are lost after that.
    pub drop: u32,
}

/// What a loss rule asks of a segment's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing.
    Any,
    /// That there is none.
    Empty,
    /// That there is some.
    Some,
}

/// The running switch; dropping it takes it off its interfaces.
#[derive(Debug)]
pub struct Switch {
    object: Object,
}

impl Switch {
    /// Starts forwarding between two interfaces of `netns`.
    ///
    /// # Errors
    /// Fails when an interface does not exist or its driver has no native XDP.
    pub fn start(netns: &Netns, client_link: &str, uplink: &str) -> Result<Self> {
        let globals = [
            ("CLIENT_IFINDEX", ifindex(netns, client_link)?),
            ("UPLINK_IFINDEX", ifindex(netns, uplink)?),
        ];
        let mut object = Object::load(&globals)?;
        object.attach_xdp(netns, uplink, "lab_sink", XdpMode::Driver)?;
        object.attach_xdp(netns, client_link, "lab_loss", XdpMode::Driver)?;
        Ok(Self { object })
    }

    /// Reads the counters.
    ///
    /// # Errors
    /// Fails when the map cannot be read.
    pub fn counters(&mut self) -> Result<Counters> {
        let map = self
            .object
            .ebpf()
            .map("LAB_COUNTERS")
            .context("no map LAB_COUNTERS")?;
        let map: PerCpuArray<_, u64> = map.try_into()?;
        let sum = |slot: u32| -> Result<u64> { Ok(map.get(&slot, 0)?.iter().sum()) };
        Ok(Counters {
            syn_ack: sum(counter::SYN_ACK)?,
            rst: sum(counter::RST)?,
            syn: sum(counter::SYN)?,
            other: sum(counter::OTHER)?,
            to_client: sum(counter::TO_CLIENT)?,
            to_host: sum(counter::TO_HOST)?,
            lost: sum(counter::LOST)?,
        })
    }

    /// Replaces the loss rule; `None` loses nothing.
    ///
    /// # Errors
    /// Fails when the map cannot be written.
    pub fn set_loss(&mut self, rule: Option<LossRule>) -> Result<()> {
        let map = self
            .object
            .ebpf()
            .map_mut("LAB_LOSS")
            .context("no map LAB_LOSS")?;
        let mut map: Array<_, u32> = map.try_into()?;
        // Off while its parts change, so that no segment meets half a rule.
        map.set(loss::DROP, 0, 0)?;
        let Some(rule) = rule else {
            return Ok(());
        };
        let payload = match rule.payload {
            Payload::Any => loss::PAYLOAD_ANY,
            Payload::Empty => loss::PAYLOAD_EMPTY,
            Payload::Some => loss::PAYLOAD_SOME,
        };
        map.set(loss::FLAGS_MASK, u32::from(rule.flags_mask), 0)?;
        map.set(loss::FLAGS, u32::from(rule.flags), 0)?;
        map.set(loss::PAYLOAD, payload, 0)?;
        map.set(loss::SKIP, rule.skip, 0)?;
        map.set(loss::DROP, rule.drop, 0)?;
        Ok(())
    }
}
