//! End to end: the real `levee` between a client and a server, in network namespaces. Every test
//! prints what it measured (`--nocapture` shows it).

mod common;
mod flooded;
mod handshake;
mod keys;
mod lifecycle;
mod listeners;
mod options;
mod pages;
mod raw;
mod syns;
mod transfer;
mod vlan_devices;
