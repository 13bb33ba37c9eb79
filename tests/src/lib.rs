//! levee's lab: network namespaces with a client, an attacker and a protected host, a flood
//! generator, a web server, and the real `levee` binary between them.
//!
//! Used by the integration tests, the demo and the benchmarks. All traffic stays inside the lab's
//! namespaces; every load is bounded in time and number.

#[path = "../../xdp-ebpf/src/lab/abi.rs"]
pub mod abi;
pub mod bench;
pub mod bpffs;
pub mod capture;
pub mod client;
pub mod demo;
pub mod fixtures;
pub mod flood;
pub mod format;
pub mod guest;
pub mod http;
pub mod interrupt;
pub mod iperf;
pub mod levee;
pub mod link;
pub mod metrics;
pub mod netns;
pub mod object;
pub mod observer;
pub mod packet;
pub mod pattern;
pub mod process;
pub mod protection;
pub mod proxy_lab;
pub mod relay;
pub mod scheduling;
pub mod scratch;
pub mod server;
pub mod sockets;
pub mod splice_lab;
pub mod stats;
pub mod switch;
pub mod topology;
pub mod vlan;
