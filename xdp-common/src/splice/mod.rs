//! Spliced connections: what the data path and the controller know of them together.
//!
//! The table is an array of [`Flow`](flow::Flow)s and an [index](index) of buckets, both mapped into
//! the controller's memory. **Architecture invariant:** one thread of the controller is the only
//! writer of the index and of what a flow is; the data path only finds flows, and writes the fields
//! of [`Seen`](flow::Seen).

pub mod flow;
pub mod icmp;
pub mod index;
pub mod link;
pub mod seen;
pub mod translate;
