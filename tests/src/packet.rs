//! TCP frames, right in every detail unless asked to be wrong in one.
use std::net::{IpAddr, SocketAddr};

/// MAC address of the sender of every frame.
pub const CLIENT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
/// MAC address of the receiver of every frame.
pub const HOST_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 2];

/// Shortest frame on a wire, without its check sequence (IEEE 802.3 3.2.8).
pub const FRAME_BYTES_MIN: usize = 60;

const IPPROTO_TCP: u8 = 6;
const IPV6_FRAGMENT: u8 = 44;
const FRAGMENT_ID: u16 = 0x1234;

/// What the TCP checksum field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// The checksum.
    Right,
    /// One off.
    Wrong,
    /// The pseudo-header's sum alone, as a sender leaves it to hardware (`CHECKSUM_PARTIAL`).
    Partial,
}

/// One TCP segment and the headers around it.
#[derive(Clone, Debug)]
pub struct Packet {
    /// VLAN tags, outermost first: EtherType and tag control information.
    pub tags: Vec<(u16, u16)>,
    /// Sender.
    pub src: SocketAddr,
    /// Receiver, of the same family.
    pub dst: SocketAddr,
    /// IPv4: the don't-fragment bit.
    pub dont_fragment: bool,
    /// IPv4 options, a multiple of four bytes, at most 40.
    pub ip_options: Vec<u8>,
    /// IPv6 extension headers: protocol number, and bytes of which the first is filled in here.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Control bits.
    pub flags: u8,
    /// Window, as it stands in the header.
    pub window: u16,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// TCP options, a multiple of four bytes, at most 40.
    pub options: Vec<u8>,
    /// Payload.
    pub payload: Vec<u8>,
    /// What is in the checksum field.
    pub checksum: Checksum,
}

/// The place of a fragment: its offset in bytes, and whether more follow.
#[derive(Clone, Copy)]
struct Fragment {
    offset: u16,
    more: bool,
}

impl Packet {
    /// A segment with these control bits, without options or payload.
    #[must_use]
    pub fn new(src: SocketAddr, dst: SocketAddr, flags: u8) -> Self {
        Self {
            tags: Vec::new(),
            src,
            dst,
            dont_fragment: true,
            ip_options: Vec::new(),
            extensions: Vec::new(),
            seq: 0x0102_0304,
            ack: 0,
            flags,
            window: 64_240,
            ttl: 64,
            options: Vec::new(),
            payload: Vec::new(),
            checksum: Checksum::Right,
        }
    }

    /// The frame.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.frame(&self.segment(), None)
    }

    /// The frame, padded as a sender must on a wire.
    #[must_use]
    pub fn padded(&self) -> Vec<u8> {
        let mut frame = self.bytes();
        frame.resize(frame.len().max(FRAME_BYTES_MIN), 0);
        frame
    }

    /// The segment as two IP fragments, of which the first carries `at` bytes, a multiple of eight.
    #[must_use]
    pub fn fragments(&self, at: usize) -> [Vec<u8>; 2] {
        let segment = self.segment();
        let (first, later) = segment.split_at(at);
        let place = |offset, more| Some(Fragment { offset, more });
        [
            self.frame(first, place(0, true)),
            self.frame(later, place(at as u16, false)),
        ]
    }

    /// The segment in a single fragment (RFC 6946 for IPv6; for IPv4 an ordinary datagram).
    #[must_use]
    pub fn atomic_fragment(&self) -> Vec<u8> {
        let only = Fragment {
            offset: 0,
            more: false,
        };
        self.frame(&self.segment(), Some(only))
    }

    /// Offset of the IP header in the frame.
    #[must_use]
    pub fn l3(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    /// Offset of the TCP header in the frame.
    #[must_use]
    pub fn l4(&self) -> usize {
        let extensions: usize = self.extensions.iter().map(|(_, bytes)| bytes.len()).sum();
        self.l3()
            + match self.dst {
                SocketAddr::V4(_) => 20 + self.ip_options.len(),
                SocketAddr::V6(_) => 40 + extensions,
            }
    }

    fn frame(&self, l4: &[u8], fragment: Option<Fragment>) -> Vec<u8> {
        let (ether_type, ip) = match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => (
                0x0800_u16,
                self.ipv4(src.octets(), dst.octets(), l4.len(), fragment),
            ),
            (IpAddr::V6(src), IpAddr::V6(dst)) => (
                0x86dd,
                self.ipv6(src.octets(), dst.octets(), l4.len(), fragment),
            ),
            (src, dst) => panic!("{src} and {dst} are of different families"),
        };
        let mut frame = [HOST_MAC, CLIENT_MAC].concat();
        for (protocol, tci) in &self.tags {
            frame.extend(protocol.to_be_bytes());
            frame.extend(tci.to_be_bytes());
        }
        frame.extend(ether_type.to_be_bytes());
        frame.extend(ip);
        frame.extend(l4);
        frame
    }

    fn ipv4(&self, src: [u8; 4], dst: [u8; 4], len: usize, part: Option<Fragment>) -> Vec<u8> {
        let header_len = 20 + self.ip_options.len();
        let mut place = u16::from(self.dont_fragment && part.is_none()) << 14;
        if let Some(Fragment { offset, more }) = part {
            place = (u16::from(more) << 13) | (offset / 8);
        }
        let mut header = vec![0x40 | (header_len / 4) as u8, 0];
        header.extend(((header_len + len) as u16).to_be_bytes());
        header.extend(FRAGMENT_ID.to_be_bytes());
        header.extend(place.to_be_bytes());
        header.extend([self.ttl, IPPROTO_TCP, 0, 0]);
        header.extend(src);
        header.extend(dst);
        header.extend(&self.ip_options);
        let checksum = !sum(&header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    fn ipv6(&self, src: [u8; 16], dst: [u8; 16], len: usize, part: Option<Fragment>) -> Vec<u8> {
        let mut chain = self.extensions.clone();
        if let Some(Fragment { offset, more }) = part {
            let [high, low] = (offset | u16::from(more)).to_be_bytes();
            let [a, b] = FRAGMENT_ID.to_be_bytes();
            chain.push((IPV6_FRAGMENT, vec![0, 0, high, low, 0, 0, a, b]));
        }
        let mut following = IPPROTO_TCP;
        for (kind, bytes) in chain.iter_mut().rev() {
            bytes[0] = following;
            following = *kind;
        }
        let extensions: Vec<u8> = chain.into_iter().flat_map(|(_, bytes)| bytes).collect();
        let mut header = vec![0x60, 0, 0, 0];
        header.extend(((extensions.len() + len) as u16).to_be_bytes());
        header.extend([following, self.ttl]);
        header.extend(src);
        header.extend(dst);
        header.extend(extensions);
        header
    }

    fn segment(&self) -> Vec<u8> {
        let words = 5 + self.options.len() / 4;
        let mut segment = Vec::new();
        segment.extend(self.src.port().to_be_bytes());
        segment.extend(self.dst.port().to_be_bytes());
        segment.extend(self.seq.to_be_bytes());
        segment.extend(self.ack.to_be_bytes());
        segment.extend([(words as u8) << 4, self.flags]);
        segment.extend(self.window.to_be_bytes());
        segment.extend([0; 4]);
        segment.extend(&self.options);
        segment.extend(&self.payload);
        let pseudo = self.pseudo_header(segment.len());
        let field = match self.checksum {
            Checksum::Right => !sum(&[&pseudo[..], &segment].concat()),
            Checksum::Wrong => !sum(&[&pseudo[..], &segment].concat()) ^ 0x0100,
            Checksum::Partial => sum(&pseudo),
        };
        segment[16..18].copy_from_slice(&field.to_be_bytes());
        segment
    }

    fn pseudo_header(&self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for ip in [self.src.ip(), self.dst.ip()] {
            match ip {
                IpAddr::V4(ip) => bytes.extend(ip.octets()),
                IpAddr::V6(ip) => bytes.extend(ip.octets()),
            }
        }
        bytes.extend((len as u32).to_be_bytes());
        bytes.extend([0, 0, 0, IPPROTO_TCP]);
        bytes
    }
}

/// The sum of RFC 1071, folded and not complemented; an odd last byte is padded with zero.
#[must_use]
pub fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        let word = [pair[0], pair.get(1).copied().unwrap_or(0)];
        sum += u32::from(u16::from_be_bytes(word));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
