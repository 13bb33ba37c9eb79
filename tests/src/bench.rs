//! Benchmarks that run in the lab.
pub mod flood;
