//! levee on a real kernel, each test in a network namespace of its own. Needs root, and fails
//! without.

mod backends;
mod common;
#[path = "../../src/backends/dns_server.rs"]
mod dns_server;
#[path = "../../src/reap/leaking_server.rs"]
mod leaking_server;
mod pins;
#[path = "../../src/metrics/promtool.rs"]
mod promtool;
mod proxy;
mod reap;
mod refuse;
mod reload;
mod run;
