//! The proxy as a whole, over loopback.

mod bytes;
mod slow;
mod support;
