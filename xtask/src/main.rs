//! Build, run, test and measure levee.
fn main() {}
