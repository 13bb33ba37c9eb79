//! How connections begin.

use xdp_common::tuple::{Addr, Tuple};

use super::{
    Connection, Node, Sim,
    endpoint::{End, Endpoint, Place, Script, Stack},
    levee::SERVICE,
    net::{Event, LIFETIME_US},
};
use crate::engine::sim::random::Random;

impl Sim {
    /// A client connects, from a place that it has not used, or that it has closed.
    pub(super) fn start(&mut self, number: u32) {
        let pace_us = self.random.below(2 * self.pace_us);
        if let Some(place) = self.free_place() {
            if number + 1 < self.to_start {
                self.net.at(self.now_us + pace_us, Event::Start(number + 1));
            }
            self.connect(place);
        } else {
            self.net.at(self.now_us + pace_us + 1, Event::Start(number));
        }
    }

    fn free_place(&mut self) -> Option<Place> {
        for _ in 0..8 {
            let host = self.random.below(4) as u8;
            let port = 2_000 + self.random.below(self.client_ports) as u16;
            let addr = Addr::v4([192, 0, 2, host]);
            let last = self.clients.get(&(addr.lo, port));
            if last.is_none_or(|number| self.has_left(*number)) {
                return Some((addr, port));
            }
        }
        None
    }

    /// Whether a client's place can be used again. One that ended without TIME_WAIT waits as long
    /// as a segment of it may be on its way (RFC 9293 3.4.3): a late copy of its first ACK would
    /// open a connection that nobody wants, but that the next one would be taken for.
    fn has_left(&self, number: u32) -> bool {
        let end = &self.connections[number as usize].client.end;
        match end.end() {
            None => false,
            Some(End::Finished) => true,
            Some(_) => self.now_us > end.closed_us + LIFETIME_US,
        }
    }

    fn connect(&mut self, place: Place) {
        let scripts = self.scripts();
        let stack = Stack {
            window_scale: self.random.of(&[None, Some(0), Some(7), Some(10)]),
            sack: !self.random.one_in(3),
            timestamps: !self.random.one_in(3),
            probes_with_data: self.random.one_in(2),
            eager_fin: self.random.one_in(3),
            clock: 0,
            time_wait_us: 1_000_000,
        };
        self.connect_as(place, scripts, stack);
    }

    pub(super) fn connect_as(&mut self, (addr, port): Place, scripts: [Script; 2], stack: Stack) {
        let number = self.connections.len() as u32;
        let tuple = Tuple {
            src: addr,
            dst: SERVICE.0,
            src_port: port,
            dst_port: SERVICE.1,
        };
        // RFC 6528: one clock for each tuple.
        let base = (addr.lo ^ u64::from(port)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let iss = (base as u32).wrapping_add((self.now_us / 4) as u32);
        let stack = Stack {
            clock: base as u32 ^ 0xffff_0000,
            ..stack
        };
        let end = Endpoint::connect(number, tuple, iss, scripts[0], stack, self.now_us);
        self.clients.insert((addr.lo, port), number);
        self.connections.push(Connection {
            scripts,
            client: Node::new(end),
            servers: Vec::new(),
            lost: 0,
            started_us: self.now_us,
        });
        self.settle(number, None);
    }

    /// What client and server want of each other.
    fn scripts(&mut self) -> [Script; 2] {
        let bytes = |random: &mut Random| random.of(&[0, 1, 100, 1_400, 1_401, 4_000]);
        let (mut request, mut answer) = (bytes(&mut self.random), bytes(&mut self.random));
        let server_first = self.random.one_in(self.server_first_one_in);
        // Who waits for nothing would have to be told what to wait for.
        if server_first {
            answer = answer.max(1);
        } else {
            request = request.max(1);
        }
        let client_closes = self.random.one_in(2);
        let resets = self.random.one_in(12);
        let patience_us = 150_000_000;
        let impatient = self.random.one_in(self.impatient_one_in);
        let script = |is_client: bool, sends, expects, patience_us| Script {
            sends,
            expects,
            speaks_first: is_client != server_first,
            closes_first: is_client == client_closes,
            resets: resets && is_client == client_closes,
            deadline_us: self.now_us + patience_us,
        };
        let client_patience_us = if impatient {
            1 + self.random.below(400_000)
        } else {
            patience_us
        };
        [
            script(true, request, answer, client_patience_us),
            script(false, answer, request, patience_us + 30_000_000),
        ]
    }
}
