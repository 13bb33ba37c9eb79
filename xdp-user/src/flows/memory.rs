//! Where a table of flows is.

use std::{
    io,
    iter::repeat_with,
    os::fd::AsFd,
    sync::atomic::{AtomicU32, AtomicU64},
};

use xdp_common::splice::{
    flow::Flow,
    index::{BUCKET_SLOTS, Bucket},
};

use crate::mapping::Mapping;

/// Words of a flow.
pub(super) const FLOW_WORDS: usize = size_of::<Flow>() / size_of::<u64>();

/// One flow, as the table is written and read: by words.
pub type Cells = [AtomicU64; FLOW_WORDS];

/// The memory of a table: `FLOWS` and `FLOW_INDEX`, or what stands for them.
pub trait Memory {
    /// The flows by number; number 0 is never used.
    fn flows(&self) -> &[Cells];

    /// The index's slots, [`BUCKET_SLOTS`] for each bucket.
    fn slots(&self) -> &[AtomicU32];
}

/// The data path's maps.
#[derive(Debug)]
pub struct Mapped {
    flows: Mapping,
    index: Mapping,
    flow_count: usize,
    bucket_count: usize,
}

impl Mapped {
    /// Maps `FLOWS`, which has `flow_count` elements, and `FLOW_INDEX`, which has `bucket_count`.
    ///
    /// # Errors
    /// Fails when the kernel refuses, as for maps that were not made to be mapped.
    pub fn new(
        flows: impl AsFd,
        flow_count: u32,
        index: impl AsFd,
        bucket_count: u32,
    ) -> io::Result<Self> {
        let (flow_count, bucket_count) = (flow_count as usize, bucket_count as usize);
        Ok(Self {
            flows: Mapping::new(flows, 0, flow_count * size_of::<Flow>())?,
            index: Mapping::new(index, 0, bucket_count * size_of::<Bucket>())?,
            flow_count,
            bucket_count,
        })
    }
}

impl Memory for Mapped {
    fn flows(&self) -> &[Cells] {
        let words = self.flows.words(0, self.flow_count * FLOW_WORDS);
        words.as_chunks().0
    }

    fn slots(&self) -> &[AtomicU32] {
        self.index.halves(0, self.bucket_count * BUCKET_SLOTS)
    }
}

/// Memory of this process alone, for simulations and tests.
#[derive(Debug)]
pub struct Boxed {
    flows: Box<[Cells]>,
    slots: Box<[AtomicU32]>,
}

impl Boxed {
    /// Room for flows with numbers below `flow_count`, in `bucket_count` buckets, a power of two.
    #[must_use]
    pub fn new(flow_count: u32, bucket_count: u32) -> Self {
        let cells = || std::array::from_fn(|_| AtomicU64::new(0));
        let slots = bucket_count as usize * BUCKET_SLOTS;
        Self {
            flows: repeat_with(cells).take(flow_count as usize).collect(),
            slots: repeat_with(AtomicU32::default).take(slots).collect(),
        }
    }
}

impl Memory for Boxed {
    fn flows(&self) -> &[Cells] {
        &self.flows
    }

    fn slots(&self) -> &[AtomicU32] {
        &self.slots
    }
}

/// The same table once more, as another process would see it.
impl<M: Memory + ?Sized> Memory for &M {
    fn flows(&self) -> &[Cells] {
        M::flows(self)
    }

    fn slots(&self) -> &[AtomicU32] {
        M::slots(self)
    }
}
