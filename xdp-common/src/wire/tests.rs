mod checksum;
mod eth;
mod ipv4;
mod ipv6;
mod tcp;
mod tcp_options;
