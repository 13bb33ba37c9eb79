//! One end of a TCP connection, as RFC 9293 has it: no congestion control, no reassembly, no delay
//! before an ACK.

mod input;
mod output;

use xdp_common::{
    tuple::{Addr, Tuple},
    wire::{
        tcp::Flags,
        tcp_options::{TcpOptions, Timestamps},
    },
};

use super::packet::{Packet, timestamps};

/// Bytes that an end can receive at a time. All it gets is read at once.
const RECEIVE_WINDOW: u32 = 100_000;

/// Bytes of payload in a segment at most.
const MSS: u16 = 1_400;

/// First wait for an answer, microseconds (RFC 6298 2.1).
const RTO_US: u64 = 1_000_000;

/// Waits for an answer that are made at most, each twice as long as the one before.
const RETRIES_MAX: u32 = 6;

/// What an application wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Script {
    /// Bytes that it sends.
    pub(super) sends: u32,
    /// Bytes that it is to receive.
    pub(super) expects: u32,
    /// Whether it sends before it has received everything.
    pub(super) speaks_first: bool,
    /// Whether it closes first: when it has received and sent everything.
    pub(super) closes_first: bool,
    /// Whether it closes with a RST.
    pub(super) resets: bool,
    /// When it gives up, microseconds.
    pub(super) deadline_us: u64,
}

/// How its TCP was built.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stack {
    pub(super) window_scale: Option<u8>,
    pub(super) sack: bool,
    pub(super) timestamps: bool,
    /// Probes zero windows with a byte of data, not with an old number.
    pub(super) probes_with_data: bool,
    /// Sends its FIN into a zero window.
    pub(super) eager_fin: bool,
    /// What it takes for the time, milliseconds.
    pub(super) clock: u32,
    /// How long its TIME_WAIT is, microseconds.
    pub(super) time_wait_us: u64,
}

/// How an end of a connection ended, for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Everything was sent and received, both FINs included.
    Finished,
    /// RST in answer to the SYN.
    Refused,
    /// RST later.
    Reset,
    /// Nobody answered.
    TimedOut,
    /// Its application reset it, as it wanted to.
    ResetItself,
    /// Its application lost patience.
    GaveUp,
}

/// What is wrong with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Complaint {
    /// Its SYN-ACK has options that the SYN did not have.
    NotAskedFor,
    /// It has no timestamps, and should.
    NoTimestamps,
    /// Its timestamp is older than one before.
    OldTimestamp,
    /// It echoes what was never sent.
    WrongEcho,
    /// It acknowledges what was never sent.
    WrongAck,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    SynSent,
    SynReceived,
    Open,
    TimeWait,
    Closed(End),
}

#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub(super) connection: u32,
    pub(super) script: Script,
    pub(super) stack: Stack,
    pub(super) state: State,
    /// As it sends: `src` is its own address.
    pub(super) tuple: Tuple,
    pub(super) iss: u32,
    pub(super) irs: u32,
    pub(super) snd_una: u32,
    pub(super) snd_nxt: u32,
    /// Everything that was ever sent ends here.
    snd_max: u32,
    snd_wnd: u32,
    snd_wl1: u32,
    snd_wl2: u32,
    pub(super) rcv_nxt: u32,
    /// Scales of its own windows and of the other's, if both scale.
    scales: Option<(u8, u8)>,
    /// Whether timestamps are in use, and the newest of the other's.
    ts_recent: Option<u32>,
    /// Its first timestamp.
    first_clock: u32,
    pub(super) received: u32,
    pub(super) fin_received: bool,
    fin_sent: bool,
    retries: u32,
    /// How often it had to ask again, or for a window.
    pub(super) asked_again: u32,
    /// When it does something by itself, microseconds; its RTO then.
    timer: Option<u64>,
    wait_us: u64,
    /// When it ended, microseconds.
    pub(super) closed_us: u64,
    /// Segments that a peer should never have sent, whatever the network did.
    pub(super) complaints: Vec<(Complaint, Packet)>,
    /// What it sends.
    pub(super) out: Vec<Packet>,
}

impl Endpoint {
    /// Sends a SYN.
    pub(super) fn connect(
        connection: u32,
        tuple: Tuple,
        iss: u32,
        script: Script,
        stack: Stack,
        now_us: u64,
    ) -> Self {
        let mut end = Self::new(connection, tuple, iss, script, stack);
        end.first_clock = end.clock(now_us);
        end.send_syn(now_us);
        end
    }

    /// Answers a SYN.
    pub(super) fn accept(
        syn: &Packet,
        connection: u32,
        iss: u32,
        script: Script,
        stack: Stack,
        now_us: u64,
    ) -> Self {
        let tuple = syn.tuple.reversed();
        let mut end = Self::new(connection, tuple, iss, script, stack);
        end.state = State::SynReceived;
        end.first_clock = end.clock(now_us);
        end.agree(syn);
        end.send_syn(now_us);
        end
    }

    fn new(connection: u32, tuple: Tuple, iss: u32, script: Script, stack: Stack) -> Self {
        Self {
            connection,
            script,
            stack,
            state: State::SynSent,
            tuple,
            iss,
            irs: 0,
            snd_una: iss,
            snd_nxt: iss,
            snd_max: iss,
            snd_wnd: 0,
            snd_wl1: 0,
            snd_wl2: 0,
            rcv_nxt: 0,
            scales: None,
            ts_recent: None,
            first_clock: 0,
            received: 0,
            fin_received: false,
            fin_sent: false,
            retries: 0,
            asked_again: 0,
            timer: None,
            wait_us: RTO_US,
            closed_us: 0,
            complaints: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Whether a SYN is of a later connection than this one (RFC 9293 3.10.7.4, RFC 6191).
    pub(super) fn is_newer(&self, syn: &Packet) -> bool {
        let value = syn.options.timestamps.map(|theirs| theirs.value);
        let later = self.ts_recent.zip(value);
        before(self.rcv_nxt, syn.seq) || later.is_some_and(|(old, new)| before(old, new))
    }

    /// When it does something by itself.
    pub(super) fn due_us(&self) -> Option<u64> {
        match self.state {
            State::Closed(_) => None,
            State::TimeWait => self.timer,
            _ => Some(
                self.timer
                    .unwrap_or(self.script.deadline_us)
                    .min(self.script.deadline_us),
            ),
        }
    }

    pub(super) const fn end(&self) -> Option<End> {
        match self.state {
            State::Closed(end) => Some(end),
            _ => None,
        }
    }

    fn clock(&self, now_us: u64) -> u32 {
        self.stack.clock.wrapping_add((now_us / 1000) as u32)
    }

    /// Whether everything that can be sent before the FIN was acknowledged.
    fn sent_all(&self) -> bool {
        self.snd_una.wrapping_sub(self.iss).wrapping_sub(1) >= self.script.sends
    }

    fn close(&mut self, now_us: u64, end: End) {
        self.state = State::Closed(end);
        self.closed_us = now_us;
        self.timer = None;
    }

    /// Takes over what a SYN or SYN-ACK says.
    fn agree(&mut self, syn: &Packet) {
        self.irs = syn.seq;
        self.rcv_nxt = syn.seq.wrapping_add(1);
        self.snd_wnd = u32::from(syn.window);
        self.snd_wl1 = syn.seq;
        self.snd_wl2 = syn.ack;
        if let (Some(ours), Some(theirs)) = (self.stack.window_scale, syn.options.window_scale) {
            self.scales = Some((ours, theirs));
        }
        if let (true, Some(theirs)) = (self.stack.timestamps, syn.options.timestamps) {
            self.ts_recent = Some(theirs.value);
        }
    }
}

/// What an end without a connection says (RFC 9293 3.10.7.1).
pub(super) fn refuse(packet: &Packet) -> Option<Packet> {
    if packet.has(Flags::RST) {
        return None;
    }
    let (seq, ack, flags) = if packet.has(Flags::ACK) {
        (packet.ack, 0, Flags::RST)
    } else {
        let ack = packet.seq.wrapping_add(packet.sequence_len());
        (0, ack, Flags::RST.with(Flags::ACK))
    };
    Some(Packet {
        connection: packet.connection,
        tuple: packet.tuple.reversed(),
        seq,
        ack,
        flags,
        window: 0,
        options: TcpOptions::default(),
        len: 0,
        offset: 0,
    })
}

/// Address and port.
pub(super) type Place = (Addr, u16);

/// Whether `a` is before `b` (RFC 9293 3.4).
const fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}
