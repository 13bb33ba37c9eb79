//! Benchmarks that run in the lab.
pub mod datapath;
pub mod flood;
mod median;
