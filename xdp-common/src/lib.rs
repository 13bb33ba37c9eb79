//! What the kernel half and the user half of levee share: wire formats, the SYN cookie, verdicts,
//! and the layout of the maps between them.
//!
//! **Architecture invariant:** nothing here does I/O, reads a clock, holds a map or calls a BPF
//! helper. Time, keys and packets are arguments, so every line runs in ordinary host tests.
#![cfg_attr(not(test), no_std)]

pub mod abi;
pub mod answer;
pub mod closing;
pub mod cookie;
pub mod service;
pub mod siphash;
pub mod splice;
pub mod tuple;
pub mod verdict;
pub mod wire;
