//! A TCP client made of hand-built frames, to say what no kernel's client says. Its address is
//! nobody's in the client's namespace, so that the kernel there does not answer for it.

use std::{
    io::{Read as _, Write as _},
    net::Ipv4Addr,
    time::Instant,
};

use etherparse::{
    IpNumber, Ipv4Header, Ipv4Options, NetSlice, PacketBuilder, SlicedPacket, TcpHeader,
    TcpOptionElement, TcpSlice, TransportSlice,
};
use levee_tests::{
    sockets::{LIMIT, packet_socket},
    topology::{CLIENT_MAC, HOST_MAC_BYTES, HOST_V4, INTERFACE, Lab},
};
use socket2::Socket;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 3);
const MAC: [u8; 6] = [0x02, 0, 0, 0, 0x77, 0x02];
const WINDOW: u16 = 0xffff;
const MSS: u16 = 1460;
const REQUEST: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

/// What is odd about the client's segments; by default nothing, with no option at all.
#[derive(Clone, Debug)]
pub(crate) struct Habits {
    /// IPv4 options of every packet, padded to whole words.
    pub(crate) ip_options: Vec<u8>,
    /// TCP options of the SYN.
    pub(crate) tcp_options: Vec<TcpOptionElement>,
    /// The bit "don't fragment".
    pub(crate) dont_fragment: bool,
    /// Data in the SYN. It is sent again after the handshake, as it was not acknowledged.
    pub(crate) syn_payload: Vec<u8>,
    /// ECE and CWR in the SYN.
    pub(crate) asks_for_ecn: bool,
    /// Whether the handshake's last ACK is sent, or the first data alone.
    pub(crate) final_ack: bool,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            ip_options: Vec::new(),
            tcp_options: Vec::new(),
            dont_fragment: true,
            syn_payload: Vec::new(),
            asks_for_ecn: false,
            final_ack: true,
        }
    }
}

/// A segment that came from the host.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// Its header, with options.
    pub(crate) header: TcpHeader,
    /// Its data.
    pub(crate) payload: Vec<u8>,
}

/// What a SYN-ACK offers: what two of them that answer the same SYN should have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offered {
    window: u16,
    ecn: bool,
    mss: Option<u16>,
    window_scale: Option<u8>,
    sack: bool,
    /// The client's timestamp that is echoed.
    timestamp_echo: Option<u32>,
}

impl Offered {
    /// Takes over from levee's answer where it is known to differ from the kernel's:
    /// - an answer is never longer than its SYN, so a SYN without options gets no MSS;
    /// - the window is one for all clients, whole segments with timestamps, so without them it is
    ///   off by less than a segment.
    pub(crate) fn forgive(&mut self, levee: &Self, habits: &Habits) {
        if habits.tcp_options.is_empty() {
            self.mss = levee.mss;
        }
        if self.window.abs_diff(levee.window) < MSS {
            self.window = levee.window;
        }
    }

    fn new(header: &TcpHeader) -> Self {
        let mut offered = Self {
            window: header.window_size,
            ecn: header.ece,
            mss: None,
            window_scale: None,
            sack: false,
            timestamp_echo: None,
        };
        for option in header.options_iterator() {
            match option.expect("options are well-formed") {
                TcpOptionElement::MaximumSegmentSize(mss) => offered.mss = Some(mss),
                TcpOptionElement::WindowScale(scale) => offered.window_scale = Some(scale),
                TcpOptionElement::SelectiveAcknowledgementPermitted => offered.sack = true,
                TcpOptionElement::Timestamp(_, echo) => offered.timestamp_echo = Some(echo),
                TcpOptionElement::Noop | TcpOptionElement::SelectiveAcknowledgement(..) => {}
            }
        }
        offered
    }
}

/// The place where hand-built frames leave and arrive.
pub(crate) struct Wire(Socket);

impl Wire {
    /// Opens it in the client's namespace, and tells the host where the client's address is.
    pub(crate) fn open(lab: &Lab) -> Self {
        let neighbour =
            format!("ip neigh add {ADDRESS} lladdr {CLIENT_MAC} dev {INTERFACE} nud permanent");
        lab.host.tool(&neighbour).unwrap();
        Self(packet_socket(&lab.client, INTERFACE).unwrap())
    }

    /// Drops what has arrived until now: all of the client's traffic does, and fills the queue.
    pub(crate) fn forget(&self) {
        self.0.set_nonblocking(true).unwrap();
        let mut frame = [0; 64];
        while (&self.0).read(&mut frame).is_ok() {}
        self.0.set_nonblocking(false).unwrap();
    }

    fn send(&self, frame: &[u8]) {
        let sent = (&self.0).write(frame).unwrap();
        assert_eq!(sent, frame.len());
    }

    /// The next segment to one of the client's ports.
    fn receive(&self, port: u16) -> Option<Received> {
        let deadline = Instant::now() + LIMIT;
        let mut frame = vec![0; 1 << 16];
        while Instant::now() < deadline {
            // The time limit of a read ends the loop through the deadline.
            let Ok(length) = (&self.0).read(&mut frame) else {
                continue;
            };
            if let Some(received) = segment_to(port, &frame[..length]) {
                return Some(received);
            }
        }
        None
    }
}

fn segment_to(port: u16, frame: &[u8]) -> Option<Received> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) = (packet.net, packet.transport)
    else {
        return None;
    };
    let for_us = ip.header().destination_addr() == ADDRESS && tcp.destination_port() == port;
    for_us.then(|| received(&tcp))
}

fn received(tcp: &TcpSlice<'_>) -> Received {
    Received {
        header: tcp.to_header(),
        payload: tcp.payload().to_vec(),
    }
}

/// One connection over a [`Wire`].
pub(crate) struct Connection<'a> {
    wire: &'a Wire,
    habits: Habits,
    source_port: u16,
    port: u16,
    next: u32,
    expected: u32,
}

impl<'a> Connection<'a> {
    /// Sends the SYN and takes the SYN-ACK.
    pub(crate) fn open(
        wire: &'a Wire,
        habits: &Habits,
        source_port: u16,
        port: u16,
    ) -> (Self, Offered) {
        let mut connection = Self {
            wire,
            habits: habits.clone(),
            source_port,
            port,
            next: 0x1e7e_e000,
            expected: 0,
        };
        let mut syn = connection.header();
        syn.ack = false;
        syn.syn = true;
        (syn.ece, syn.cwr) = (habits.asks_for_ecn, habits.asks_for_ecn);
        syn.set_options(&habits.tcp_options).unwrap();
        connection.send(syn, &habits.syn_payload);
        let answer = wire
            .receive(source_port)
            .unwrap_or_else(|| panic!("no answer to a SYN of {habits:x?}"));
        let header = answer.header;
        assert!(header.syn && header.ack && !header.rst, "{header:?}");
        connection.next += 1;
        assert_eq!(header.acknowledgment_number, connection.next);
        connection.expected = header.sequence_number.wrapping_add(1);
        (connection, Offered::new(&header))
    }

    /// Completes the handshake and fetches what an HTTP server has. Nothing is sent twice: nothing
    /// may be lost.
    pub(crate) fn get(&mut self) -> String {
        if self.habits.final_ack {
            self.acknowledge();
        }
        let mut request = self.header();
        request.psh = true;
        self.send(request, REQUEST);
        self.next += REQUEST.len() as u32;
        let mut text = Vec::new();
        loop {
            let segment = self.wire.receive(self.source_port).expect("the page comes");
            assert!(!segment.header.rst, "reset: {:?}", segment.header);
            if segment.header.sequence_number != self.expected {
                continue;
            }
            text.extend_from_slice(&segment.payload);
            let length = segment.payload.len() as u32 + u32::from(segment.header.fin);
            self.expected = self.expected.wrapping_add(length);
            self.acknowledge();
            if segment.header.fin {
                return String::from_utf8(text).unwrap();
            }
        }
    }

    fn acknowledge(&self) {
        self.send(self.header(), &[]);
    }

    fn header(&self) -> TcpHeader {
        let mut header = TcpHeader::new(self.source_port, self.port, self.next, WINDOW);
        header.ack = true;
        header.acknowledgment_number = self.expected;
        header
    }

    fn send(&self, header: TcpHeader, payload: &[u8]) {
        let (source, target) = (ADDRESS.octets(), HOST_V4.octets());
        let mut ip = Ipv4Header::new(0, 64, IpNumber::TCP, source, target).unwrap();
        ip.options = Ipv4Options::try_from(self.habits.ip_options.as_slice()).unwrap();
        ip.dont_fragment = self.habits.dont_fragment;
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(MAC, HOST_MAC_BYTES)
            .ip(etherparse::IpHeaders::Ipv4(ip, Default::default()))
            .tcp_header(header)
            .write(&mut frame, payload)
            .unwrap();
        self.wire.send(&frame);
    }
}
