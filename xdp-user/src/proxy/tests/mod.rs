//! The proxy as a whole, over loopback.

mod bytes;
mod control;
mod ends;
mod identity;
mod limits;
mod pressure;
mod slow;
mod support;
mod timeouts;
