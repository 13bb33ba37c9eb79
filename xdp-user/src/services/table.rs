//! Two generations of buckets, of which the data path reads one while the other is written.

use std::{error::Error, fmt, net::SocketAddr};

use xdp_common::{
    abi::{BUCKET_ENTRIES, BUCKETS, KIND_SERVICE, ServiceBucket, ServiceEntry},
    service::bucket,
};

/// Seeds tried for one table. For a full one about one in 120 overfills no bucket, so that all of
/// them failing has a probability below 2^-95.
const SEED_TRIES: u64 = 8192;

/// No seed was found that fits every bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFull {
    /// Entries that should have been placed.
    pub entries: usize,
}

impl fmt::Display for TableFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} addresses and services do not fit {BUCKETS} buckets of {BUCKET_ENTRIES} under any \
             of {SEED_TRIES} seeds",
            self.entries
        )
    }
}

impl Error for TableFull {}

/// What both generations hold in the data path.
#[derive(Debug)]
pub struct Table {
    generations: [Vec<ServiceBucket>; 2],
    seeds: [u64; 2],
    live: usize,
}

/// One bucket to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketWrite {
    /// Index in `SERVICES`.
    pub index: u32,
    /// Its new content.
    pub bucket: ServiceBucket,
}

/// What has to be done to make a new table live: the writes in any order, then the seed, then the
/// generation.
#[derive(Debug)]
pub struct Plan {
    /// The generation to write and then to flip to, 0 or 1.
    pub generation: u32,
    /// Its seed.
    pub seed: u64,
    /// The buckets that differ from what it holds.
    pub writes: Vec<BucketWrite>,
}

impl Default for Table {
    fn default() -> Self {
        let empty = || vec![ServiceBucket::default(); BUCKETS as usize];
        Self {
            generations: [empty(), empty()],
            seeds: [0, 0],
            live: 0,
        }
    }
}

impl Table {
    /// A table whose content is in the data path already: the buckets of both generations, their
    /// seeds, and which of them is live, 0 or 1.
    #[must_use]
    pub fn adopted(mut buckets: Vec<ServiceBucket>, seeds: [u64; 2], live: u32) -> Self {
        buckets.resize(2 * BUCKETS as usize, ServiceBucket::default());
        let second = buckets.split_off(BUCKETS as usize);
        Self {
            generations: [buckets, second],
            seeds,
            live: (live & 1) as usize,
        }
    }

    /// The services in the generation that is live, and their slots in `SERVICE_STATS`.
    pub fn services(&self) -> impl Iterator<Item = (SocketAddr, u16)> {
        let entries = self.generations[self.live].iter().flat_map(|b| &b.entries);
        let services = entries.filter(|entry| entry.kind == KIND_SERVICE);
        services.map(|entry| (SocketAddr::new(entry.addr.to_ip(), entry.port), entry.id))
    }

    /// Plans a table with these entries.
    ///
    /// # Errors
    /// Fails when they cannot be placed; never for as many as the configuration allows, as far as
    /// chance goes.
    pub fn plan(&self, entries: &[ServiceEntry]) -> Result<Plan, TableFull> {
        let target = self.live ^ 1;
        // Seeds in use come first: then only buckets that changed have to be written.
        let known = [self.seeds[target], self.seeds[self.live]];
        let (seed, buckets) = known
            .into_iter()
            .chain(1..=SEED_TRIES)
            .find_map(|seed| Some((seed, place(seed, entries)?)))
            .ok_or(TableFull {
                entries: entries.len(),
            })?;
        let base = target * BUCKETS as usize;
        let writes = buckets
            .into_iter()
            .zip(&self.generations[target])
            .enumerate()
            .filter(|(_, (new, old))| new != *old)
            .map(|(position, (bucket, _))| BucketWrite {
                index: (base + position) as u32,
                bucket,
            })
            .collect();
        Ok(Plan {
            generation: target as u32,
            seed,
            writes,
        })
    }

    /// Notes that one write of a plan reached the data path.
    pub fn written(&mut self, write: &BucketWrite) {
        let index = write.index as usize;
        let buckets = BUCKETS as usize;
        self.generations[index / buckets][index % buckets] = write.bucket;
    }

    /// Notes that a plan is live.
    pub fn flipped(&mut self, plan: &Plan) {
        self.live = plan.generation as usize;
        self.seeds[self.live] = plan.seed;
    }

    /// Seeds by generation.
    #[must_use]
    pub const fn seeds(&self) -> [u64; 2] {
        self.seeds
    }

    /// The generation that is live, 0 or 1.
    #[must_use]
    pub const fn live(&self) -> u32 {
        self.live as u32
    }
}

/// The buckets under a seed, unless one overflows.
fn place(seed: u64, entries: &[ServiceEntry]) -> Option<Vec<ServiceBucket>> {
    let mut used = vec![0_u8; BUCKETS as usize];
    let index = |entry: &ServiceEntry| bucket(seed, entry.addr, entry.port) as usize;
    // Counted before anything is copied: most seeds are tried in vain.
    for entry in entries {
        let used = &mut used[index(entry)];
        if usize::from(*used) == BUCKET_ENTRIES {
            return None;
        }
        *used += 1;
    }
    let mut buckets = vec![ServiceBucket::default(); BUCKETS as usize];
    for entry in entries {
        let index = index(entry);
        used[index] -= 1;
        buckets[index].entries[usize::from(used[index])] = *entry;
    }
    Some(buckets)
}
