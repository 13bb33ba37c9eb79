//! Control of the switch program between the lab's namespaces: counters, and what is lost.
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use aya::{
    maps::{Array, MapData, PerCpuArray},
    programs::XdpMode,
};

use crate::{
    abi::{counter, direction, loss},
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
    /// Frames from the client that were lost because the link loses that share of the flood.
    pub lost_in_flood: u64,
    /// Frames to the client that were lost, by its loss rule or by chance.
    pub lost_to_client: u64,
}

impl Counters {
    /// What the host sent back for SYNs: SYN-ACKs, or from `lab_tx` the SYNs themselves.
    #[must_use]
    pub fn answers(&self) -> u64 {
        self.syn_ack + self.syn
    }
}

/// A way through the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the host.
    ToHost,
    /// From the host to the client.
    ToClient,
}

impl Direction {
    const fn number(self) -> u32 {
        match self {
            Self::ToHost => direction::TO_HOST,
            Self::ToClient => direction::TO_CLIENT,
        }
    }
}

/// Which segments are lost on the way.
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
    chance: Chance,
}

/// Sets the probability with which frames are lost.
#[derive(Clone)]
pub(crate) struct Chance(Arc<Mutex<Array<MapData, u32>>>);

impl Chance {
    /// `probability` is clamped to 0 to 1.
    pub(crate) fn set(&self, direction: Direction, probability: f64) -> Result<()> {
        let units = (probability * f64::from(u32::MAX)) as u32;
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.set(direction.number(), units, 0)
            .context("cannot set the switch's loss")
    }
}

impl fmt::Debug for Chance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Chance")
    }
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
        let map = object
            .ebpf()
            .take_map("LAB_CHANCE")
            .context("no map LAB_CHANCE")?;
        Ok(Self {
            object,
            chance: Chance(Arc::new(Mutex::new(map.try_into()?))),
        })
    }

    pub(crate) fn chance(&self) -> Chance {
        self.chance.clone()
    }

    /// Loses frames of one direction by chance, with this probability, 0 to 1.
    ///
    /// # Errors
    /// Fails when the map cannot be written.
    pub fn set_chance(&self, direction: Direction, probability: f64) -> Result<()> {
        self.chance.set(direction, probability)
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
            lost_in_flood: sum(counter::LOST_IN_FLOOD)?,
            lost_to_client: sum(counter::LOST_TO_CLIENT)?,
        })
    }

    /// Replaces the loss rule of one direction; `None` loses nothing.
    ///
    /// # Errors
    /// Fails when the map cannot be written.
    pub fn set_loss(&mut self, direction: Direction, rule: Option<LossRule>) -> Result<()> {
        let map = self
            .object
            .ebpf()
            .map_mut("LAB_LOSS")
            .context("no map LAB_LOSS")?;
        let mut map: Array<_, u32> = map.try_into()?;
        let mut set = |slot, value| map.set(direction.number() * loss::COUNT + slot, value, 0);
        // Off while its parts change, so that no segment meets half a rule.
        set(loss::DROP, 0)?;
        let Some(rule) = rule else {
            return Ok(());
        };
        let payload = match rule.payload {
            Payload::Any => loss::PAYLOAD_ANY,
            Payload::Empty => loss::PAYLOAD_EMPTY,
            Payload::Some => loss::PAYLOAD_SOME,
        };
        set(loss::FLAGS_MASK, u32::from(rule.flags_mask))?;
        set(loss::FLAGS, u32::from(rule.flags))?;
        set(loss::PAYLOAD, payload)?;
        set(loss::SKIP, rule.skip)?;
        set(loss::DROP, rule.drop)?;
        Ok(())
    }
}
