//! The proxy, end to end: the real `levee` between clients and backends, in network namespaces.
//! Every test prints what it measured (`--nocapture` shows it).

mod backends;
mod bytes;
mod closing;
mod common;
mod control;
mod errors;
mod flooded;
mod header;
mod health;
mod limits;
mod programs;
mod reaping;
