//! Benchmarks that run in the lab.
pub mod datapath;
pub mod flood;
pub mod handshakes;
pub mod flows;
mod host;
mod median;
pub mod proxy;
