//! The handshakes of spliced connections, without I/O.

pub mod effects;
