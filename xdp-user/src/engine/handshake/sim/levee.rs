//! levee as it stands between the two: the data path, a table, and the world of the engine.

use std::{mem::offset_of, sync::atomic::Ordering};

use xdp_common::{
    abi::{OFFER_SACK, OFFER_TIMESTAMPS, OFFER_WINDOW_SCALE},
    cookie::{self, Data, Family, Key, Offer},
    splice::{
        flow::{CLIENT, Flow, FlowState, Hop, STATE_PENDING, Seen, Spliced, TARGET, Target},
        index::SideKey,
        translate::Rewrite,
    },
    tuple::{Addr, Tuple},
    wire::{
        tcp::{Flags, Kind},
        tcp_options::{TcpOptions, Timestamps},
    },
};
use zerocopy::transmute;

use super::{
    endpoint::Place,
    packet::{HOP, Packet},
};
use crate::{
    engine::{
        Tick,
        balancer::BackendSet,
        handshake::{
            answered::Answered,
            effects::{Choice, FlowId, Flows, Service, World},
            outcome::{Notice, Outcome},
            outgoing::Outgoing,
        },
        reason::ConnectError,
        sim::random::Random,
    },
    flows::{Memory as _, Table, memory::Boxed},
};

pub(super) const KEYS: [Key; 2] = [Key([5, 6]), Key([7, 8])];

pub(super) const SERVICE: Place = (Addr::v4([198, 51, 100, 1]), 443);

const TARGET_PORT: u16 = 8080;

pub(super) fn target_place(target: u16) -> Place {
    (Addr::v4([10, 0, 1, target as u8]), TARGET_PORT)
}

/// The table, in memory that lives as long as the test.
pub(super) type TestTable = Table<&'static Boxed>;

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    Client,
    Target(u16),
    Levee,
    Engine,
}

pub(super) struct Levee {
    pub(super) flows: TestTable,
    /// The table's memory, as the data path sees it.
    pub(super) memory: &'static Boxed,
    pub(super) service: Service,
    pub(super) targets: u16,
    /// Addresses of the pool; none keeps the client's.
    pub(super) pool: Vec<Addr>,
    /// Ports of each address of the pool.
    pub(super) pool_ports: u64,
    /// The neighbour of a target is not known once in so many times.
    pub(super) unresolved_one_in: u64,
    pub(super) random: Random,
    /// What the engine sends, with the connection that it is for.
    pub(super) sent: Vec<(To, Packet)>,
    pub(super) ended: [u64; Outcome::COUNT],
    pub(super) notices: [u64; Notice::COUNT],
    pub(super) failed: [u64; ConnectError::COUNT],
    pub(super) clock_s: u32,
    /// SYN-ACKs that may have to be sent again.
    pub(super) answered: Answered<Packet>,
}

impl Levee {
    /// The data path: what comes out where of a packet that comes in; `None` if it ends here.
    pub(super) fn forward(&mut self, packet: &Packet, now_us: u64) -> Option<(To, Packet)> {
        self.tell_time(now_us);
        let tuple = &packet.tuple;
        if (tuple.dst, tuple.dst_port) == SERVICE {
            return self.client_side(packet, now_us);
        }
        let target = self.target(tuple.src, tuple.src_port)?;
        let side = SideKey::target(tuple.dst, tuple.dst_port, target);
        let id = self.flows.find(side)?;
        let Some(flow) = self.seen(id, TARGET, packet) else {
            return Some((To::Engine, *packet));
        };
        let service = Spliced {
            addr: SERVICE.0,
            port: SERVICE.1,
            reserved: [0; 6],
        };
        let rewrite = Rewrite::to_client(&flow, &service);
        Some((To::Client, packet.translated(&rewrite)))
    }

    /// Tells everybody the time.
    pub(super) fn tell_time(&mut self, now_us: u64) {
        self.clock_s = (now_us / 1_000_000) as u32 + 1;
        self.flows.set_time(Tick(now_us / 1000), self.clock_s);
    }

    fn client_side(&mut self, packet: &Packet, now_us: u64) -> Option<(To, Packet)> {
        let tuple = &packet.tuple;
        let side = SideKey::client(tuple.src, tuple.src_port, self.service.id);
        let kind = packet.segment().kind().ok()?;
        let Some(id) = self.flows.find(side) else {
            return self.of_no_flow(kind, packet, now_us);
        };
        let over = self.flows.get(id).is_over();
        if over && let Some(answer) = self.of_no_flow(kind, packet, now_us) {
            return Some(answer);
        }
        let Some(flow) = self.seen(id, CLIENT, packet) else {
            return Some((To::Engine, *packet));
        };
        let (addr, port) = target_place(flow.target);
        let target = Target {
            addr,
            port,
            ..Target::default()
        };
        let rewrite = Rewrite::to_target(&flow, &target);
        Some((To::Target(flow.target), packet.translated(&rewrite)))
    }

    /// Notes what a packet of an open flow tells; `None` for a flow that is the engine's.
    fn seen(&mut self, id: FlowId, side: usize, packet: &Packet) -> Option<Flow> {
        let mut flow = self.flows.get(id);
        if flow.state == STATE_PENDING {
            return None;
        }
        flow.seen[side] = flow.seen_after(side, &packet.segment(), self.clock_s);
        let words: [u64; size_of::<Seen>() / 8] = transmute!(flow.seen[side]);
        let first = (offset_of!(Flow, seen) + side * size_of::<Seen>()) / 8;
        let cells = &self.memory.flows()[id.0 as usize][first..];
        for (cell, word) in cells.iter().zip(words) {
            cell.store(word, Ordering::Relaxed);
        }
        Some(flow)
    }

    fn of_no_flow(&mut self, kind: Kind, packet: &Packet, now_us: u64) -> Option<(To, Packet)> {
        match kind {
            Kind::Syn => {
                let syn_ack = self.syn_ack(packet, now_us);
                let now = Tick(now_us / 1000);
                assert!(self.answered.enter(now, packet.tuple, syn_ack));
                Some((To::Client, syn_ack))
            }
            Kind::Ack => has_cookie(packet).then_some((To::Engine, *packet)),
            Kind::SynAck | Kind::Rst => None,
        }
    }

    /// The SYN-ACK with a cookie and a window of 0.
    fn syn_ack(&self, syn: &Packet, now_us: u64) -> Packet {
        let may = |offer| self.service.offer & offer != 0;
        let scale = syn.options.window_scale.filter(|_| may(OFFER_WINDOW_SCALE));
        let offer = Offer {
            mss: syn.options.mss.unwrap_or(536),
            window_scale: scale,
            sack: syn.options.sack && may(OFFER_SACK),
        };
        let data = Data::new(Family::V4, offer);
        let cookie = cookie::issue(Family::V4, KEYS[0], 0, &syn.tuple, syn.seq, data);
        let clock = (now_us / 1000) as u32 & !1;
        let theirs = syn.options.timestamps.filter(|_| may(OFFER_TIMESTAMPS));
        Packet {
            connection: syn.connection,
            tuple: syn.tuple.reversed(),
            seq: cookie.isn,
            ack: syn.seq.wrapping_add(1),
            flags: Flags::SYN.with(Flags::ACK),
            window: 0,
            options: TcpOptions {
                mss: Some(1460),
                window_scale: scale.map(|_| self.service.window_scale),
                sack: offer.sack,
                timestamps: theirs.map(|theirs| Timestamps {
                    value: clock.wrapping_add(cookie.timestamp_offset),
                    echo: theirs.value,
                }),
            },
            len: 0,
            offset: 0,
        }
    }

    /// Sends the SYN-ACKs again whose time it is.
    pub(super) fn repeat(&mut self, now: Tick) {
        let sent = &mut self.sent;
        self.answered
            .expire(now, |_, syn_ack| sent.push((To::Client, *syn_ack)));
    }

    /// Address and port of the client behind a packet to a target, as the table knows them.
    pub(super) fn client_behind(&self, to: To, packet: &Packet) -> Option<(u64, u16)> {
        let To::Target(target) = to else {
            return None;
        };
        let side = SideKey::target(packet.tuple.src, packet.tuple.src_port, target);
        let flow = self.flows.get(self.flows.find(side)?);
        Some((flow.client.lo, flow.client_port))
    }

    /// Flows that are there, pending or open.
    pub(super) fn flows_left(&self) -> u32 {
        let counts = self.flows.counts();
        counts.open + counts.pending
    }

    /// Ends flows that are over, or that nothing was heard of. Both ends of the latter get a RST;
    /// how many there were.
    pub(super) fn reap(&mut self) -> u32 {
        let mut reaped = 0;
        let mut all = Vec::new();
        self.flows
            .scan(0..self.flows.end(), |id, flow| all.push((id, *flow)));
        for (id, flow) in all {
            let heard_s = flow.seen[CLIENT].at_s.max(flow.seen[TARGET].at_s);
            let silent_s = self.clock_s.saturating_sub(heard_s.max(flow.opened_s));
            let limit_s = match flow.tcp_state() {
                FlowState::SynSent => continue,
                FlowState::TimeWait | FlowState::Closed => 60,
                FlowState::Closing => 100,
                _ => 200,
            };
            if silent_s < limit_s {
                continue;
            }
            if limit_s > 60 {
                reaped += 1;
                self.reset_both(&flow);
            }
            self.flows.close(id);
        }
        reaped
    }

    fn reset_both(&mut self, flow: &Flow) {
        let reset = |from: Place, to: Place, seq| Packet {
            connection: None,
            tuple: Tuple {
                src: from.0,
                dst: to.0,
                src_port: from.1,
                dst_port: to.1,
            },
            seq,
            ack: 0,
            flags: Flags::RST,
            window: 0,
            options: TcpOptions::default(),
            len: 0,
            offset: 0,
        };
        let client = (flow.client, flow.client_port);
        let source = (flow.nat, flow.nat_port);
        let target = target_place(flow.target);
        let [client_acked, target_acked] = flow.seen.map(|seen| seen.acked);
        self.sent
            .push((To::Client, reset(SERVICE, client, client_acked)));
        self.sent
            .push((To::Target(flow.target), reset(source, target, target_acked)));
    }
}

fn has_cookie(packet: &Packet) -> bool {
    let cookie = packet.ack.wrapping_sub(1);
    [0, 1].into_iter().any(|sent| {
        let isn = packet.seq.wrapping_sub(sent);
        cookie::verify(Family::V4, &KEYS, &packet.tuple, isn, cookie).is_some()
    })
}

impl World for Levee {
    type Flows = TestTable;

    fn flows(&self) -> &TestTable {
        &self.flows
    }

    fn flows_mut(&mut self) -> &mut TestTable {
        &mut self.flows
    }

    fn service(&self, addr: Addr, port: u16) -> Option<Service> {
        ((addr, port) == SERVICE).then_some(self.service)
    }

    fn target(&self, addr: Addr, port: u16) -> Option<u16> {
        (0..self.targets).find(|target| target_place(*target) == (addr, port))
    }

    fn choose(&mut self, _: u16, _: Addr, tried: BackendSet) -> Option<Choice> {
        let free = (0..self.targets).filter(|target| tried >> target & 1 == 0);
        let free: Vec<_> = free.collect();
        if free.is_empty() {
            return None;
        }
        let target = self.random.of(&free);
        let (addr, port) = target_place(target);
        Some(Choice {
            target,
            position: target as u8,
            addr,
            port,
        })
    }

    fn source(&mut self, _: u16, _: &Choice, client: Place, probe: u8) -> Option<Place> {
        if self.pool.is_empty() {
            return (probe == 0).then_some(client);
        }
        let addr = self.random.of(&self.pool);
        Some((addr, 1024 + self.random.below(self.pool_ports) as u16))
    }

    fn hop(&mut self, _: u16) -> Option<Hop> {
        let unresolved = self.unresolved_one_in > 0 && self.random.one_in(self.unresolved_one_in);
        (!unresolved).then_some(HOP)
    }

    fn send(&mut self, segment: &Outgoing) {
        let tuple = &segment.tuple;
        let packet = Packet::of(segment, None);
        let to = match self.target(tuple.dst, tuple.dst_port) {
            Some(target) => To::Target(target),
            None => To::Client,
        };
        self.sent.push((to, packet));
    }

    fn attempted(&mut self, _: u16, _: &Choice, result: Result<(), ConnectError>) {
        if let Err(error) = result {
            self.failed[error.index()] += 1;
        }
    }

    fn ended(&mut self, _: u16, outcome: Outcome, _: u64) {
        self.ended[outcome.index()] += 1;
    }

    fn notice(&mut self, _: u16, notice: Notice) {
        self.notices[notice.index()] += 1;
    }
}
