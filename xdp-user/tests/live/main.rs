//! levee on a real kernel, each test in a network namespace of its own. Needs root, and fails
//! without.

mod common;
#[path = "../../src/metrics/promtool.rs"]
mod promtool;
mod proxy;
mod refuse;
mod reload;
mod run;
