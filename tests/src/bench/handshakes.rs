//! How many handshakes of spliced connections one core can take: frames in, frames out, the flow
//! table as it is, and neither network nor simulation around it.
//!
//! What clients and targets send is made before the clock starts. It can be known: a target's answer
//! depends on the client's SYN and on which target was chosen, and they are chosen in turns.

use std::{hint::black_box, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use levee::{
    engine::{
        Tick,
        balancer::BackendSet,
        handshake::{
            Handshakes,
            effects::{Choice, Service, World},
            outcome::{Notice, Outcome},
            outgoing::{FRAME_MAX, Outgoing},
            received::Received,
        },
        reason::ConnectError,
    },
    flows::{Table, memory::Boxed},
};
use nix::sys::resource::{UsageWho, getrusage};
use xdp_common::{
    abi::{OFFER_SACK, OFFER_TIMESTAMPS, OFFER_WINDOW_SCALE},
    cookie::{self, Data, Family, Key, Offer},
    splice::{flow::Hop, index::buckets},
    tuple::{Addr, Tuple},
    wire::{
        tcp::Flags,
        tcp_options::{TcpOptions, Timestamps},
    },
};

/// Connections that are opened.
const CONNECTIONS: u32 = 200_000;

/// Handshakes in progress at a time: what a target 1 ms away makes of 100,000 per second.
const BATCH: usize = 100;

const KEYS: [Key; 2] = [Key([1, 2]), Key([3, 4])];
const SERVICE: (Addr, u16) = (Addr::v4([198, 51, 100, 1]), 443);
const TARGETS: u16 = 4;
const TARGET_PORT: u16 = 8080;
const HOP: Hop = Hop {
    ifindex: 1,
    tags: [0; 2],
    dst_mac: [2, 0, 0, 0, 0, 1],
    src_mac: [2, 0, 0, 0, 0, 2],
    confirmed_s: 0,
};

/// A frame and its length.
type Frame = ([u8; FRAME_MAX], usize);

/// Opens connections; how many per second of a core, whatever else the machine does.
///
/// # Errors
/// Fails when not all of them are opened.
pub(super) fn measure() -> Result<f64> {
    let clients: Vec<_> = (0..CONNECTIONS).map(cookie_ack).collect();
    let answers: Vec<_> = (0..CONNECTIONS).map(syn_ack).collect();
    let flow_count = CONNECTIONS + 1;
    let (table, _) = Table::adopt(Boxed::new(flow_count, buckets(flow_count)), 7);
    let mut bench = Bench {
        table,
        next: 0,
        frame: [0; FRAME_MAX],
        sent: 0,
        established: 0,
    };
    let mut engine = Handshakes::new(Tick(0), BATCH as u32, KEYS);
    let before = cpu_time()?;
    for (batch, (clients, answers)) in clients.chunks(BATCH).zip(answers.chunks(BATCH)).enumerate()
    {
        let now = Tick(batch as u64);
        engine.expire(now, &mut bench);
        for frame in clients.iter().chain(answers) {
            receive(&mut engine, now, frame, &mut bench)?;
        }
    }
    let seconds = (cpu_time()? - before).as_secs_f64();
    ensure!(
        bench.established == CONNECTIONS && bench.sent == 3 * CONNECTIONS,
        "{} of {CONNECTIONS} connections were opened, with {} frames",
        bench.established,
        bench.sent
    );
    Ok(f64::from(CONNECTIONS) / seconds)
}

/// CPU time of this thread so far.
fn cpu_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).context("asking for the thread's CPU time")?;
    let times = [usage.user_time(), usage.system_time()];
    let micros = times.map(|time| time.tv_sec() * 1_000_000 + time.tv_usec());
    Ok(Duration::from_micros(micros.iter().sum::<i64>() as u64))
}

fn receive(
    engine: &mut Handshakes,
    now: Tick,
    (frame, len): &Frame,
    bench: &mut Bench,
) -> Result<()> {
    let segment = Received::parse(&frame[..*len], HOP.ifindex);
    let Ok(segment) = segment else {
        bail!("a frame of the benchmark is unreadable: {segment:?}");
    };
    engine.receive(now, &segment, bench);
    Ok(())
}

/// What a client sends in answer to its cookie.
fn cookie_ack(number: u32) -> Frame {
    let tuple = client_tuple(number);
    let isn = number.wrapping_mul(0x9E37_79B9);
    let offer = Offer {
        mss: 1460,
        window_scale: Some(7),
        sack: true,
    };
    let data = Data::new(Family::V4, offer);
    let cookie = cookie::issue(Family::V4, KEYS[0], 0, &tuple, isn, data);
    frame(Outgoing {
        seq: isn.wrapping_add(1),
        ack: cookie.isn.wrapping_add(1),
        window: 502,
        options: TcpOptions {
            timestamps: Some(Timestamps {
                value: number,
                echo: cookie.timestamp_offset,
            }),
            ..TcpOptions::default()
        },
        ..bare(tuple, Flags::ACK)
    })
}

/// What the target answers to the SYN for that client.
fn syn_ack(number: u32) -> Frame {
    let client = client_tuple(number);
    let (target, port) = target_place(number as u16 % TARGETS);
    let tuple = Tuple {
        src: target,
        dst: client.src,
        src_port: port,
        dst_port: client.src_port,
    };
    frame(Outgoing {
        seq: number,
        ack: number.wrapping_mul(0x9E37_79B9).wrapping_add(1),
        window: 65_160,
        options: TcpOptions {
            mss: Some(1460),
            window_scale: Some(7),
            sack: true,
            timestamps: Some(Timestamps {
                value: 1,
                echo: number,
            }),
        },
        ..bare(tuple, Flags::SYN.with(Flags::ACK))
    })
}

fn client_tuple(number: u32) -> Tuple {
    let [a, b, ..] = number.to_le_bytes();
    Tuple {
        src: Addr::v4([10, 1, b, a]),
        dst: SERVICE.0,
        src_port: 1024 + (number >> 16) as u16,
        dst_port: SERVICE.1,
    }
}

const fn target_place(target: u16) -> (Addr, u16) {
    (Addr::v4([10, 2, 0, target as u8]), TARGET_PORT)
}

fn bare(tuple: Tuple, flags: Flags) -> Outgoing {
    Outgoing {
        hop: HOP,
        family: Family::V4,
        tuple,
        seq: 0,
        ack: 0,
        flags,
        window: 0,
        options: TcpOptions::default(),
    }
}

fn frame(segment: Outgoing) -> Frame {
    let mut frame = [0; FRAME_MAX];
    let len = segment.emit(&mut frame);
    (frame, len)
}

/// A world in which everything is at hand.
struct Bench {
    table: Table<Boxed>,
    /// How many targets were chosen.
    next: u16,
    frame: [u8; FRAME_MAX],
    sent: u32,
    established: u32,
}

impl World for Bench {
    type Flows = Table<Boxed>;

    fn flows(&self) -> &Self::Flows {
        &self.table
    }

    fn flows_mut(&mut self) -> &mut Self::Flows {
        &mut self.table
    }

    fn service(&self, addr: Addr, port: u16) -> Option<Service> {
        ((addr, port) == SERVICE).then_some(Service {
            id: 1,
            window_scale: 7,
            offer: OFFER_TIMESTAMPS | OFFER_SACK | OFFER_WINDOW_SCALE,
            attempts_max: 3,
            connect_timeout_ms: 3_000,
            half_open_max: BATCH as u32,
        })
    }

    fn target(&self, addr: Addr, port: u16) -> Option<u16> {
        (0..TARGETS).find(|target| target_place(*target) == (addr, port))
    }

    fn choose(&mut self, _: u16, _: Addr, _: BackendSet) -> Option<Choice> {
        let target = self.next % TARGETS;
        self.next = self.next.wrapping_add(1);
        let (addr, port) = target_place(target);
        Some(Choice {
            target,
            position: target as u8,
            addr,
            port,
        })
    }

    fn source(
        &mut self,
        _: u16,
        _: &Choice,
        client: (Addr, u16),
        probe: u8,
    ) -> Option<(Addr, u16)> {
        (probe == 0).then_some(client)
    }

    fn hop(&mut self, _: u16) -> Option<Hop> {
        Some(HOP)
    }

    fn send(&mut self, segment: &Outgoing) {
        black_box(segment.emit(&mut self.frame));
        black_box(&self.frame);
        self.sent += 1;
    }

    fn attempted(&mut self, _: u16, _: &Choice, _: Result<(), ConnectError>) {}

    fn ended(&mut self, _: u16, outcome: Outcome, _: u64) {
        self.established += u32::from(outcome == Outcome::Established);
    }

    fn notice(&mut self, _: u16, _: Notice) {}
}

#[cfg(test)]
mod tests {
    /// How fast is not for a test to say.
    #[test]
    fn all_connections_are_opened() {
        super::measure().unwrap();
    }
}
