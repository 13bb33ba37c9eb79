//! Services in `splice` mode, beside their packets: which there are, where their connections may
//! lead, by which way, and what is counted of them.
//!
//! The controller makes the [`Directory`](directory::Directory) and finds the [ways](hops); the
//! splice thread reads both, and counts.

pub mod director;
pub mod directory;
pub mod hops;
pub mod stats;
