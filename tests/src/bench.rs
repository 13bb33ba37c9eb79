//! Benchmarks that run in the lab.
pub mod datapath;
pub mod flood;
pub mod flows;
mod handshakes;
mod host;
mod median;
pub mod proxy;
mod restored;
mod search;
pub mod splice;
