//! Many random connections at once through the engine, in virtual time: small TCPs at both ends, a
//! network that loses, doubles and reorders, targets that refuse or fall silent, and a data path
//! that translates real frames. What has to be true:
//!
//! * what an end receives is what the other has sent, byte for byte, whatever happens;
//! * an end that finishes has a counterpart that finishes, or that has had everything;
//! * every end ends: none waits for ever, and the reaper finds no connection that both ends know to
//!   be over;
//! * a connection that loses nothing is completed, and so is one that loses a single packet;
//! * in a perfect network nobody sees a segment that should not have come;
//! * no flow, no handshake and no timer is left behind.

mod check;
mod endpoint;
mod levee;
mod net;
mod packet;
mod single;
mod start;
mod worlds;

use std::collections::HashMap;

use self::{
    endpoint::{Endpoint, Script, Stack, State, refuse},
    levee::{KEYS, Levee, To},
    net::{Conditions, Event, Net},
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

    fn arrival(&mut self, to: To, packet: &Packet) {
        match to {
            To::Client => self.at_client(packet),
            To::Target(target) => self.at_target(target, packet),
            To::Levee => {
                if let Some((to, packet)) = self.levee.forward(packet, self.now_us) {
                    self.send(to, packet);
                }
                self.set_engine_alarm();
            }
            To::Engine => {
                let tick = self.tick();
                self.levee.tell_time(self.now_us);
                self.engine.expire(tick, &mut self.levee);
                if !packet.is_syn() {
                    self.levee.answered.heard_of(&packet.tuple);
                }
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
        let is_syn = packet.is_syn();
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
        self.levee.repeat(tick);
        self.engine_settled();
    }

    /// Sends what the engine has to send, and sets its alarm.
    fn engine_settled(&mut self) {
        self.flush();
        self.set_engine_alarm();
    }

    fn set_engine_alarm(&mut self) {
        let next = [self.engine.next(), self.levee.answered.next()];
        let next_us = next.into_iter().flatten().min().map(|tick| tick.0 * 1000);
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
            self.connections[number as usize].lost += 1;
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
