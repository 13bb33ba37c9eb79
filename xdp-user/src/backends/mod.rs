//! The backends of services in `proxy` mode: whether they are well, and where their names lead.

pub mod check;
mod http;
mod tls;
