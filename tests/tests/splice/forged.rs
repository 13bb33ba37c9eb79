//! Segments that neither client nor server has sent: what a stranger can and cannot do to a
//! connection.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpStream},
};

use etherparse::{IpNumber, Ipv4Header, PacketBuilder};
use levee_tests::{
    abi::tcp_flag::{FIN, SYN},
    capture::{Capture, Recording},
    netns::Netns,
    sockets::{assert_echo, eventually, packet_socket},
    splice_lab::{CLIENT, HOST_MACS, INTERFACE, LEVEE_INSIDE_MAC_BYTES, LEVEE_MAC_BYTES, SERVICE},
};
use socket2::Socket;

use crate::common::{PORT, Stage, addresses, assert_reset, backends};

/// Segments out of the window that are sent, all over the space of sequence numbers.
const GUESSES: u32 = 4096;

/// What a stranger knows of one direction of a connection, and says in its sender's name.
struct Forger {
    socket: Socket,
    macs: [[u8; 6]; 2],
    from: SocketAddr,
    to: SocketAddr,
}

impl Forger {
    /// In the client's name, to the service.
    fn of_client(stage: &Stage, from: SocketAddr, to: SocketAddr) -> Self {
        let macs = [HOST_MACS[0], LEVEE_MAC_BYTES];
        Self::new(&stage.lab.client, macs, from, to)
    }

    /// In the backend's name, to the client.
    fn of_backend(stage: &Stage, from: SocketAddr, to: SocketAddr) -> Self {
        let macs = [HOST_MACS[1], LEVEE_INSIDE_MAC_BYTES];
        Self::new(&stage.lab.backend, macs, from, to)
    }

    fn new(netns: &Netns, macs: [[u8; 6]; 2], from: SocketAddr, to: SocketAddr) -> Self {
        let socket = packet_socket(netns, INTERFACE).unwrap();
        Self {
            socket,
            macs,
            from,
            to,
        }
    }

    fn reset(&self, seq: u32) {
        let ethernet = PacketBuilder::ethernet2(self.macs[0], self.macs[1]);
        let ip = match (self.from.ip(), self.to.ip()) {
            (std::net::IpAddr::V4(from), std::net::IpAddr::V4(to)) => {
                ethernet.ipv4(from.octets(), to.octets(), 64)
            }
            (std::net::IpAddr::V6(from), std::net::IpAddr::V6(to)) => {
                ethernet.ipv6(from.octets(), to.octets(), 64)
            }
            _ => unreachable!("both ends are of one family"),
        };
        let tcp = ip.tcp(self.from.port(), self.to.port(), seq, 0).rst();
        let mut frame = Vec::new();
        tcp.write(&mut frame, &[]).unwrap();
        (&self.socket).write_all(&frame).unwrap();
    }

    /// Everywhere but where the receiver expects it.
    fn guess(&self, expected: u32) {
        for guess in 0..GUESSES {
            let step = u32::MAX / GUESSES;
            self.reset(expected.wrapping_add(1 + guess * step));
        }
        // Inside the window, where a stranger comes by trying, and just behind it.
        (1..64).for_each(|offset| self.reset(expected.wrapping_add(offset)));
        (1..64).for_each(|offset| self.reset(expected.wrapping_sub(offset)));
    }
}

/// The sequence number behind what `from` has sent last.
fn next_of(recording: &Recording, from: SocketAddr) -> u32 {
    let segments = recording.segments().unwrap();
    let last = segments.iter().rfind(|segment| segment.from == from);
    let last = last.expect("it has sent something");
    let flags = last.flags & (SYN | FIN);
    last.seq
        .wrapping_add(last.length)
        .wrapping_add(flags.count_ones())
}

/// A pair on which something was said, and what one end has sent last.
fn recorded(stage: &Stage, family: usize, at_client: bool) -> (TcpStream, TcpStream, u32) {
    let netns = if at_client {
        &stage.lab.client
    } else {
        &stage.lab.backend
    };
    let name = format!("{family}-{at_client}");
    let capture = Capture::start(netns, INTERFACE, stage.lab.scratch(), &name).unwrap();
    let (client, server) = stage.pair(family);
    say(&client, &server);
    say(&server, &client);
    let from = if at_client {
        client.local_addr().unwrap()
    } else {
        backends()[family]
    };
    let next = next_of(&capture.stop().unwrap(), from);
    (client, server, next)
}

fn say(mut from: &TcpStream, mut to: &TcpStream) {
    use std::io::Read as _;
    from.write_all(b"word").unwrap();
    let mut word = [0; 4];
    to.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"word");
}

#[test]
fn a_blind_reset_ends_nothing() {
    let stage = Stage::plain();
    for family in [0, 1] {
        let (client, server, next) = recorded(&stage, family, true);
        let source = client.local_addr().unwrap();
        Forger::of_client(&stage, source, addresses()[family]).guess(next);
        say(&client, &server);
        say(&server, &client);

        let (other, other_server, next) = recorded(&stage, family, false);
        let target = other.local_addr().unwrap();
        Forger::of_backend(&stage, backends()[family], target).guess(next);
        say(&other, &other_server);
        say(&other_server, &other);
        // Those of this round are closed in good order when it ends.
        eventually("both are open", || {
            stage.metric("levee_flows", &[("state", "ESTABLISHED")]) == 2
        });
    }
}

/// The one right number is a RST of the client's own, for all that anybody can tell.
#[test]
fn the_expected_reset_does() {
    let stage = Stage::plain();
    for family in [0, 1] {
        let (client, server, next) = recorded(&stage, family, true);
        let source = client.local_addr().unwrap();
        Forger::of_client(&stage, source, addresses()[family]).reset(next);
        assert_reset(&server);

        let (other, _server, next) = recorded(&stage, family, false);
        let target = other.local_addr().unwrap();
        Forger::of_backend(&stage, backends()[family], target).reset(next);
        assert_reset(&other);
        drop(client);
    }
    stage.assert_nothing_left();
}

/// A segment in two fragments, which no TCP sends: it is dropped and counted.
#[test]
fn a_fragmented_segment_is_dropped() {
    let stage = Stage::plain();
    let _servers = stage.serve(levee_tests::sockets::echo);
    let [address, _] = addresses();
    let client = stage.connect(address);
    assert_echo(&client, "before");
    let (std::net::IpAddr::V4(from), std::net::IpAddr::V4(to)) = (CLIENT[0], SERVICE[0]) else {
        unreachable!("the first of a pair is IPv4");
    };
    let source = client.local_addr().unwrap().port();
    let mut tcp = etherparse::TcpHeader::new(source, PORT, 1, 1000);
    tcp.ack = true;
    let mut payload = Vec::new();
    tcp.write(&mut payload).unwrap();
    payload.resize(64, b'x');
    let socket = packet_socket(&stage.lab.client, INTERFACE).unwrap();
    for (offset, part) in payload.chunks(32).enumerate() {
        let mut ip = Ipv4Header::new(32, 64, IpNumber::TCP, from.octets(), to.octets()).unwrap();
        ip.identification = 7;
        ip.dont_fragment = false;
        ip.more_fragments = offset == 0;
        ip.fragment_offset = (offset as u16 * 4).try_into().unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        let mut frame = [LEVEE_MAC_BYTES, HOST_MACS[0]].concat();
        frame.extend([0x08, 0x00]);
        ip.write(&mut frame).unwrap();
        frame.extend(part);
        (&socket).write_all(&frame).unwrap();
    }
    eventually("the first fragment is counted", || {
        stage.dropped("fragment_spliced") == 1
    });
    assert_echo(&client, "after");
}
