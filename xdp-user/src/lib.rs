//! levee's process. The controller reads the configuration, brings the data path into the kernel,
//! rotates the cookies' keys, and tells what is going on; for services in `proxy` mode, the proxy's
//! workers serve the clients.
//!
//! **Architecture invariant:** established connections of `host` services do not depend on this
//! process. It is asked nothing per packet; what the data path needs, it writes ahead of time.

pub mod attach;
pub mod attend;
pub mod backends;
pub mod check;
pub mod cli;
pub mod closing;
pub mod config;
pub mod controller;
pub mod ctl;
pub mod datapath;
pub mod doors;
pub mod engine;
pub mod flows;
pub mod http;
pub mod jiffies;
pub mod keys;
pub mod kfunc;
pub mod learned;
pub mod loader;
pub mod log_output;
pub mod mapping;
pub mod metrics;
pub mod netlink;
pub mod offer;
pub mod pins;
pub mod preflight;
pub mod protection;
pub mod proxy;
pub mod proxying;
pub mod reap;
pub mod regular_file;
pub mod reload;
pub mod running;
pub mod secret;
pub mod services;
pub mod shared;
pub mod snapshot;
pub mod splice;
pub mod splicing;
pub mod startup;
pub mod task;
pub mod upgrade;
pub mod vlans;
pub mod warnings;
pub mod xsk;
