//! `splice` mode end to end: the real `levee` between a client and servers, in network namespaces.

mod backends;
mod closing;
mod common;
mod death;
mod forged;
mod lab;
mod limits;
mod loss;
mod modes;
mod mtu;
mod options;
mod serving;
mod stopping;
mod vlan_devices;
