//! Many random connections at once through the engine, in virtual time: small TCPs at both ends, a
//! network that loses, doubles and reorders, targets that refuse or fall silent, and a data path
//! that translates real frames. What has to be true:
//!
//! * what an end receives is what the other has sent, byte for byte, whatever happens;
//! * an end that finishes has a counterpart that finishes, or that has had everything;
//! * every end ends: none waits for ever, and the reaper finds no connection that both ends know to
//!   be over;
//! * a connection that loses nothing is completed, and so is one that loses a single packet, with
//!   the exception that is named below;
//! * in a perfect network nobody sees a segment that should not have come;
//! * no flow, no handshake and no timer is left behind.

mod check;
mod endpoint;
mod levee;
mod net;
mod packet;
mod single;
mod worlds;

use std::collections::HashMap;

use xdp_common::{
    tuple::{Addr, Tuple},
    wire::tcp::Flags,
};

use self::{
    endpoint::{End, Endpoint, Place, Script, Stack, State, refuse},
    levee::{KEYS, Levee, SERVICE, To},
    net::{Conditions, Event, LIFETIME_US, Net},
    packet::Packet,
};
use super::{Handshakes, outcome::Notice};
use crate::engine::{Tick, sim::random::Random};

/// What a target does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// Answers.
    Good,
    /// Answers, in up to 300 ms.
    Slow,
    /// Has nobody listening.
    Refusing,
    /// Is not there.
    Gone,
}

/// A client and all the servers that it had to do with.
struct Connection {
    scripts: [Script; 2],
    client: Node,
    servers: Vec<Node>,
    /// Packets of it that were lost.
    lost: u32,
    /// Whether the first thing that was lost is the client's ACK of the cookie.
    lost_first_ack: bool,
    started_us: u64,
}

/// An end, and for when its alarm is set.
struct Node {
    end: Endpoint,
    alarm_us: Option<u64>,
}

impl Node {
    const fn new(end: Endpoint) -> Self {
        Self {
            end,
            alarm_us: None,
        }
    }
}

/// One run.
struct Sim {
    random: Random,
    now_us: u64,
    net: Net,
    conditions: Conditions,
    engine: Handshakes,
    engine_alarm_us: Option<u64>,
    levee: Levee,
    habits: Vec<Habit>,
    stack: Stack,
    connections: Vec<Connection>,
    to_start: u32,
    /// The latest connection of each place.
    clients: HashMap<(u64, u16), u32>,
    /// The latest server at a target for each place that it sees.
    servers: HashMap<(u16, u64, u16), (u32, usize)>,
    client_ports: u64,
    /// Between two connections, microseconds.
    pace_us: u64,
    reaped: u32,
    /// Services that speak first, by chance.
    server_first_one_in: u64,
    impatient_one_in: u64,
}

impl Sim {
    /// Lets it all happen.
    fn run(&mut self) {
        self.net.at(0, Event::Start(0));
        self.net.at(1_000_000, Event::Reap);
        self.go_on();
    }

    fn go_on(&mut self) {
        while let Some((at_us, event)) = self.net.next() {
            self.now_us = at_us;
            match event {
                Event::Start(number) => self.start(number),
                Event::Arrival(to, packet) => self.arrival(to, &packet),
                Event::Alarm(number, server) => self.alarm(number, server),
                Event::EngineAlarm => self.engine_alarm(),
                Event::Reap => self.reap(),
            }
        }
    }

    fn tick(&self) -> Tick {
        Tick(self.now_us / 1000)
    }

    /// A client connects, from a place that it has not used, or that it has closed.
    fn start(&mut self, number: u32) {
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

    fn connect_as(&mut self, (addr, port): Place, scripts: [Script; 2], stack: Stack) {
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
            lost_first_ack: false,
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

    fn arrival(&mut self, to: To, packet: &Packet) {
        match to {
            To::Client => self.at_client(packet),
            To::Target(target) => self.at_target(target, packet),
            To::Levee => {
                if let Some((to, packet)) = self.levee.forward(packet, self.now_us) {
                    self.send(to, packet);
                }
            }
            To::Engine => {
                let tick = self.tick();
                self.levee.tell_time(self.now_us);
                self.engine.expire(tick, &mut self.levee);
                self.engine
                    .receive(tick, &packet.received(), &mut self.levee);
                self.engine_settled();
            }
        }
    }

    fn at_client(&mut self, packet: &Packet) {
        let place = (packet.tuple.dst.lo, packet.tuple.dst_port);
        let Some(number) = self.clients.get(&place).copied() else {
            return;
        };
        let now_us = self.now_us;
        let end = &mut self.connections[number as usize].client.end;
        end.receive(now_us, packet);
        self.settle(number, None);
    }

    fn at_target(&mut self, target: u16, packet: &Packet) {
        let place = (target, packet.tuple.src.lo, packet.tuple.src_port);
        let known = self.servers.get(&place).copied();
        let is_syn = packet.has(Flags::SYN) && !packet.has(Flags::ACK);
        match self.habits[usize::from(target)] {
            Habit::Gone => return,
            Habit::Refusing => {
                if let Some(answer) = refuse(packet) {
                    self.send(To::Levee, answer);
                }
                return;
            }
            Habit::Good | Habit::Slow => {}
        }
        if let Some((number, server)) = known {
            let end = &mut self.connections[number as usize].servers[server].end;
            let makes_way = match end.state {
                State::Closed(_) => true,
                // RFC 9293 3.10.7.4 and RFC 6191.
                State::TimeWait => end.is_newer(packet),
                _ => false,
            };
            if !(is_syn && makes_way) {
                end.receive(self.now_us, packet);
                return self.settle(number, Some(server));
            }
        }
        if is_syn {
            self.accept(target, packet);
        } else if let Some(answer) = refuse(packet) {
            self.send(To::Levee, answer);
        }
    }

    fn accept(&mut self, target: u16, syn: &Packet) {
        let Some(number) = syn.connection else {
            return;
        };
        let iss = self.random.below(1 << 32) as u32;
        let stack = Stack {
            clock: iss.rotate_left(7),
            ..self.stack
        };
        let connection = &mut self.connections[number as usize];
        let script = connection.scripts[1];
        let end = Endpoint::accept(syn, number, iss, script, stack, self.now_us);
        connection.servers.push(Node::new(end));
        let server = connection.servers.len() - 1;
        let place = (target, syn.tuple.src.lo, syn.tuple.src_port);
        self.servers.insert(place, (number, server));
        if self.habits[usize::from(target)] == Habit::Slow {
            let at_us = self.now_us + self.random.below(300_000);
            let node = &mut self.connections[number as usize].servers[server];
            for packet in node.end.out.drain(..) {
                self.net.at(at_us, Event::Arrival(To::Levee, packet));
            }
        }
        self.settle(number, Some(server));
    }

    /// Sends what an end has to send, and sets its alarm.
    fn settle(&mut self, number: u32, server: Option<usize>) {
        let connection = &mut self.connections[number as usize];
        let node = match server {
            None => &mut connection.client,
            Some(server) => &mut connection.servers[server],
        };
        let out = std::mem::take(&mut node.end.out);
        let due_us = node.end.due_us();
        if due_us != node.alarm_us {
            node.alarm_us = due_us;
            if let Some(due_us) = due_us {
                self.net
                    .at(due_us.max(self.now_us), Event::Alarm(number, server));
            }
        }
        for packet in &out {
            self.send(To::Levee, *packet);
        }
    }

    fn alarm(&mut self, number: u32, server: Option<usize>) {
        let connection = &mut self.connections[number as usize];
        let node = match server {
            None => &mut connection.client,
            Some(server) => &mut connection.servers[server],
        };
        if node
            .end
            .due_us()
            .is_some_and(|due_us| due_us <= self.now_us)
        {
            node.alarm_us = None;
            node.end.expire(self.now_us);
            self.settle(number, server);
        }
    }

    fn engine_alarm(&mut self) {
        self.engine_alarm_us = None;
        self.levee.tell_time(self.now_us);
        let tick = self.tick();
        self.engine.expire(tick, &mut self.levee);
        self.engine_settled();
    }

    /// Sends what the engine has to send, and sets its alarm.
    fn engine_settled(&mut self) {
        self.flush();
        let next_us = self.engine.next().map(|tick| tick.0 * 1000);
        if let Some(next_us) = next_us
            && self
                .engine_alarm_us
                .is_none_or(|alarm_us| next_us < alarm_us)
        {
            let at_us = next_us.max(self.now_us + 1);
            self.engine_alarm_us = Some(at_us);
            self.net.at(at_us, Event::EngineAlarm);
        }
    }

    fn flush(&mut self) {
        for (to, mut packet) in std::mem::take(&mut self.levee.sent) {
            packet.connection = self.connection_of(to, &packet);
            self.send(to, packet);
        }
    }

    /// Whose a packet of the engine is.
    fn connection_of(&self, to: To, packet: &Packet) -> Option<u32> {
        let place = match to {
            To::Client => (packet.tuple.dst.lo, packet.tuple.dst_port),
            _ => self.levee.client_behind(to, packet)?,
        };
        self.clients.get(&place).copied()
    }

    fn send(&mut self, to: To, packet: Packet) {
        let arrives = self
            .net
            .send(self.now_us, &self.conditions, &mut self.random, to, packet);
        if let (false, Some(number)) = (arrives, packet.connection) {
            let connection = &mut self.connections[number as usize];
            let is_first = connection.lost == 0;
            connection.lost += 1;
            // Before the client has sent or received anything else.
            let end = &connection.client.end;
            connection.lost_first_ack |= is_first
                && to == To::Levee
                && packet.flags == Flags::ACK
                && packet.len == 0
                && packet.tuple.src == end.tuple.src
                && end.received == 0
                && connection.servers.is_empty();
        }
    }

    fn reap(&mut self) {
        self.levee.tell_time(self.now_us);
        self.reaped += self.levee.reap();
        self.flush();
        let all_started = self.connections.len() as u32 == self.to_start;
        let goes_on = |connection: &Connection| connection.client.end.end().is_none();
        if !all_started || self.levee.flows_left() > 0 || self.connections.iter().any(goes_on) {
            self.net.at(self.now_us + 1_000_000, Event::Reap);
        }
    }

    fn noticed(&self, notice: Notice) -> u64 {
        self.levee.notices[notice.index()]
    }
}
