//! The frame that the generator varies, and the checksums of its constant part.
use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail};

use super::FloodKind;
use crate::abi::{
    flood::{TEMPLATE_BYTES_MAX, TEMPLATE_WORDS},
    tcp_flag,
};

/// A frame with every varying field zero.
pub(super) struct Template {
    pub(super) frame: Vec<u8>,
    /// Sum over the IPv4 header, in memory order; 0 for IPv6.
    pub(super) ip_sum: u32,
    /// Sum over pseudo header and TCP header, in memory order.
    pub(super) tcp_sum: u32,
}

const IPPROTO_TCP: u8 = 6;
const TTL: u8 = 64;
const WINDOW: u16 = 64_240;

/// The options of a SYN from Linux, in its order: MSS 1460, SACK permitted, timestamps (value 1,
/// echo 0), window scale 7.
const SYN_OPTIONS: [u8; 20] = [
    2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7,
];
/// The options of any later segment: timestamps.
const ACK_OPTIONS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 2, 0, 0, 0, 1];

impl Template {
    pub(super) fn new(kind: FloodKind, target: SocketAddr, macs: [[u8; 6]; 2]) -> Self {
        let [source_mac, target_mac] = macs;
        let tcp = tcp_header(kind, target.port());
        let (ethertype, ip, pseudo) = match target.ip() {
            IpAddr::V4(to) => (
                0x0800_u16,
                ipv4_header(to.octets(), &tcp),
                pseudo_v4(to.octets(), &tcp),
            ),
            IpAddr::V6(to) => (
                0x86dd,
                ipv6_header(to.octets(), &tcp),
                pseudo_v6(to.octets(), &tcp),
            ),
        };
        let mut frame = [target_mac, source_mac].concat();
        frame.extend(ethertype.to_be_bytes());
        frame.extend(&ip);
        frame.extend(&tcp);
        Self {
            frame,
            ip_sum: if target.is_ipv4() { sum(&ip) } else { 0 },
            tcp_sum: sum(&pseudo) + sum(&tcp),
        }
    }

    /// The frame as the value of the generator's map.
    pub(super) fn words(&self) -> Result<[u64; TEMPLATE_WORDS]> {
        let mut bytes = [0; TEMPLATE_BYTES_MAX];
        let Some(start) = bytes.get_mut(..self.frame.len()) else {
            bail!(
                "a template of {} bytes; at most {TEMPLATE_BYTES_MAX}",
                self.frame.len()
            );
        };
        start.copy_from_slice(&self.frame);
        let mut words = [0; TEMPLATE_WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        Ok(words)
    }
}

fn tcp_header(kind: FloodKind, port: u16) -> Vec<u8> {
    let (flags, options): (u8, &[u8]) = match kind {
        FloodKind::Syn => (tcp_flag::SYN, &SYN_OPTIONS),
        FloodKind::Ack => (tcp_flag::ACK, &ACK_OPTIONS),
    };
    let mut header = vec![0; 20];
    header[2..4].copy_from_slice(&port.to_be_bytes());
    header[12] = (((20 + options.len()) / 4) << 4) as u8;
    header[13] = flags;
    header[14..16].copy_from_slice(&WINDOW.to_be_bytes());
    header.extend(options);
    header
}

fn ipv4_header(to: [u8; 4], tcp: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 20];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&((20 + tcp.len()) as u16).to_be_bytes());
    // Don't fragment, as Linux sets with path MTU discovery.
    header[6] = 0x40;
    header[8] = TTL;
    header[9] = IPPROTO_TCP;
    header[16..20].copy_from_slice(&to);
    header
}

fn ipv6_header(to: [u8; 16], tcp: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 40];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&(tcp.len() as u16).to_be_bytes());
    header[6] = IPPROTO_TCP;
    header[7] = TTL;
    header[24..40].copy_from_slice(&to);
    header
}

/// RFC 9293, section 3.1; the source is added by the generator.
fn pseudo_v4(to: [u8; 4], tcp: &[u8]) -> Vec<u8> {
    let mut pseudo = to.to_vec();
    pseudo.extend([0, IPPROTO_TCP]);
    pseudo.extend((tcp.len() as u16).to_be_bytes());
    pseudo
}

/// RFC 8200, section 8.1; the generator adds the random half of the source, the constant half is
/// here.
fn pseudo_v6(to: [u8; 16], tcp: &[u8]) -> Vec<u8> {
    let mut pseudo = to.to_vec();
    pseudo.extend([0x20, 0x01, 0x0d, 0xb8, 0x00, 0x0f, 0x00, 0x00]);
    pseudo.extend((tcp.len() as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, IPPROTO_TCP]);
    pseudo
}

/// Adds the 16-bit words in memory order: the ones' complement sum does not depend on byte order
/// (RFC 1071, section 2), so the generator can go on adding what it stores.
fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks_exact(2)
        .map(|word| u32::from(u16::from_ne_bytes([word[0], word[1]])))
        .sum()
}
