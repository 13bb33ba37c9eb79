//! `levee-lab`: demonstration and benchmarks.
fn main() {}
