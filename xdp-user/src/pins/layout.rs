//! Whether a pinned map is laid out as the programs expect it.

use std::fmt;

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, MapInfo, MapType};

/// What the kernel knows of a map's layout.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Layout {
    kind: MapType,
    key_size: u32,
    value_size: u32,
    pub(super) max_entries: u32,
    flags: u32,
}

impl Layout {
    pub(super) fn of(info: &MapInfo) -> Result<Self> {
        Ok(Self {
            kind: info.map_type().context("a map of an unknown type")?,
            key_size: info.key_size(),
            value_size: info.value_size(),
            max_entries: info.max_entries(),
            flags: info.map_flags(),
        })
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} with keys of {} and values of {} bytes, {} entries, flags {:#x}",
            self.kind, self.key_size, self.value_size, self.max_entries, self.flags
        )
    }
}

/// The map behind aya's distinction of types.
pub(super) const fn data(map: &Map) -> &MapData {
    match map {
        Map::Array(data)
        | Map::ArrayOfMaps(data)
        | Map::BloomFilter(data)
        | Map::CgroupArray(data)
        | Map::CgroupStorage(data)
        | Map::CgrpStorage(data)
        | Map::CpuMap(data)
        | Map::DevMap(data)
        | Map::DevMapHash(data)
        | Map::HashMap(data)
        | Map::HashOfMaps(data)
        | Map::InodeStorage(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuCgroupStorage(data)
        | Map::PerCpuHashMap(data)
        | Map::PerCpuLruHashMap(data)
        | Map::PerfEventArray(data)
        | Map::ProgramArray(data)
        | Map::Queue(data)
        | Map::ReusePortSockArray(data)
        | Map::RingBuf(data)
        | Map::SockHash(data)
        | Map::SockMap(data)
        | Map::SkStorage(data)
        | Map::Stack(data)
        | Map::StackTraceMap(data)
        | Map::Unsupported(data)
        | Map::XskMap(data) => data,
    }
}
