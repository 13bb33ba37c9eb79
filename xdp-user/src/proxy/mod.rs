//! The TCP proxy: sockets on one side, the [engine](crate::engine)'s decisions on the other.
//!
//! A connection belongs to one worker from accept to close; workers share only what
//! [`runtime`] and [`stats`] hold.

pub mod info;
pub mod runtime;
pub mod stats;
