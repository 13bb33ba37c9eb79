//! The handshakes of spliced connections, without I/O.

pub mod effects;
pub mod outcome;
pub mod outgoing;
pub mod received;
