//! `splice` mode end to end, in network namespaces.

mod lab;
