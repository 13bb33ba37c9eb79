//! Benchmarks that run in the lab.
pub mod datapath;
pub mod flood;
mod host;
mod median;
pub mod proxy;
