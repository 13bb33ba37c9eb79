//! Spliced connections: finding them, and noting what is seen of them.

use aya_ebpf::{bindings::BPF_F_MMAPABLE, macros::map, maps::Array};
use xdp_common::{
    abi::Control,
    splice::{
        flow::{CLIENT, Flow, Hop, Seen},
        index::{BUCKET_SLOTS, Bucket, Place, SideKey, TARGET_SIDE},
    },
};

/// Flow 0 is none. Sized at load: nothing is spent where nothing is spliced.
#[map]
static FLOWS: Array<Flow> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Sized with [`FLOWS`].
#[map]
static FLOW_INDEX: Array<Bucket> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// A connection in the table.
#[derive(Clone, Copy)]
pub(crate) struct Entry(*mut Flow);

/// The connection that one of these sides belongs to.
#[inline(always)]
pub(crate) fn find(control: &Control, key: SideKey) -> Option<Entry> {
    let place = key.place_in(control.flow_seed, control.flow_mask);
    let (found, full) = search(place.bucket, place, key);
    // Only behind a full bucket is there anything in its neighbour.
    if found.is_none() && full {
        return search(place.neighbour(), place, key).0;
    }
    found
}

/// Looks through a bucket; the second result is whether it is full.
#[inline(always)]
fn search(bucket: u32, place: Place, key: SideKey) -> (Option<Entry>, bool) {
    let Some(bucket) = FLOW_INDEX.get_ptr(bucket) else {
        return (None, false);
    };
    let mut full = true;
    for i in 0..BUCKET_SLOTS {
        // SAFETY: a word of a live map element. The controller publishes a flow before its slot.
        let slot = unsafe { (&raw const (*bucket).slots[i]).read_volatile() };
        if slot == 0 {
            full = false;
        }
        if let Some(flow) = place.candidate(slot)
            && let Some(flow) = FLOWS.get_ptr_mut(flow)
        {
            let entry = Entry(flow);
            entry.touch();
            if entry.is(key) {
                return (Some(entry), full);
            }
        }
    }
    (None, full)
}

impl Entry {
    /// What the connection is. Only the controller changes it, in an order in which every mixture
    /// of old and new is harmless. Not for what the data path itself writes: [`seen`](Self::seen)
    /// and [`hop`](Self::hop).
    #[inline(always)]
    pub(crate) fn flow(self) -> &'static Flow {
        // SAFETY: a live map element.
        unsafe { &*self.0 }
    }

    /// What was seen from a side. Another CPU may write it meanwhile, each word as a whole.
    #[inline(always)]
    pub(crate) fn seen(self, side: usize) -> Seen {
        // SAFETY: of a live map element.
        unsafe { (&raw const (*self.0).seen[side]).read_volatile() }
    }

    /// The way back to the client. While another CPU learns another, a packet may take a mixture of
    /// both, and is lost.
    #[inline(always)]
    pub(crate) fn hop(self) -> Hop {
        // SAFETY: of a live map element.
        unsafe { (&raw const (*self.0).hop).read() }
    }

    /// Has the CPU fetch the second cache line along with the first: of a million connections,
    /// neither is in a near cache.
    #[inline(always)]
    fn touch(self) {
        // SAFETY: an aligned word of a live map element.
        unsafe { (&raw const (*self.0).seen[CLIENT].at_s).read_volatile() };
    }

    #[inline(always)]
    fn is(self, key: SideKey) -> bool {
        let flow = self.flow();
        let side = if key.place & TARGET_SIDE == 0 {
            SideKey::client(flow.client, flow.client_port, flow.service)
        } else {
            SideKey::target(flow.nat, flow.nat_port, flow.target)
        };
        side.addr.lo == key.addr.lo
            && side.port == key.port
            && side.place == key.place
            && side.addr.hi == key.addr.hi
    }

    /// Notes what was seen from a side. Only what has changed is written, so as not to take the
    /// cache line away from the other CPUs.
    #[inline(always)]
    pub(crate) fn note(self, side: usize, old: Seen, new: Seen) {
        // SAFETY: aligned words of a live map element.
        unsafe {
            let seen = &raw mut (*self.0).seen[side];
            if new.at_s != old.at_s {
                (&raw mut (*seen).at_s).write_volatile(new.at_s);
            }
            if new.acked != old.acked {
                (&raw mut (*seen).acked).write_volatile(new.acked);
            }
            if new.fin != old.fin {
                (&raw mut (*seen).fin).write_volatile(new.fin);
            }
            if new.marks != old.marks {
                (&raw mut (*seen).marks).write_volatile(new.marks);
            }
        }
    }

    /// Notes where the client's packets come from.
    #[inline(always)]
    pub(crate) fn learn(self, hop: Hop) {
        // SAFETY: a live map element.
        unsafe { (&raw mut (*self.0).hop).write(hop) };
    }
}
