//! What an end sends.

use super::{
    End, Endpoint, Flags, MSS, Packet, RECEIVE_WINDOW, RETRIES_MAX, RTO_US, State, TcpOptions,
    Timestamps, timestamps,
};

impl Endpoint {
    /// SYN or SYN-ACK, again if need be.
    pub(super) fn send_syn(&mut self, now_us: u64) {
        let mut packet = self.packet(now_us, Flags::SYN, self.iss, 0);
        let is_answer = self.state == State::SynReceived;
        if is_answer {
            packet.flags = Flags::SYN.with(Flags::ACK);
        } else {
            packet.ack = 0;
        }
        packet.window = RECEIVE_WINDOW.min(u16::MAX.into()) as u16;
        let agreed = |ours: bool, theirs: bool| ours && (!is_answer || theirs);
        packet.options = TcpOptions {
            mss: Some(MSS),
            window_scale: self
                .stack
                .window_scale
                .filter(|_| agreed(true, self.scales.is_some())),
            sack: self.stack.sack,
            timestamps: agreed(self.stack.timestamps, self.ts_recent.is_some()).then(|| {
                Timestamps {
                    value: self.clock(now_us),
                    echo: self.ts_recent.unwrap_or(0),
                }
            }),
        };
        self.snd_nxt = self.iss.wrapping_add(1);
        self.snd_max = self.snd_nxt;
        self.out.push(packet);
        self.start_timer(now_us);
    }

    pub(super) fn send_ack(&mut self, now_us: u64) {
        let packet = self.packet(now_us, Flags::ACK, self.snd_nxt, 0);
        self.out.push(packet);
    }

    pub(super) fn send_rst(&mut self, now_us: u64) {
        let flags = Flags::RST.with(Flags::ACK);
        let packet = self.packet(now_us, flags, self.snd_nxt, 0);
        self.out.push(packet);
    }

    /// Sends what the application has and the other end has room for.
    pub(super) fn output(&mut self, now_us: u64) {
        if self.state != State::Open {
            return;
        }
        if self.script.resets && self.is_done() {
            self.send_rst(now_us);
            return self.close(now_us, End::ResetItself);
        }
        let started = self.snd_nxt;
        loop {
            let in_flight = self.snd_nxt.wrapping_sub(self.snd_una);
            let room = self.snd_wnd.saturating_sub(in_flight);
            let offset = self.snd_nxt.wrapping_sub(self.iss).wrapping_sub(1);
            let waiting = self.released().saturating_sub(offset);
            let len = waiting.min(room).min(MSS.into());
            if len > 0 {
                self.send_data(now_us, len);
                continue;
            }
            if waiting == 0 && self.may_fin(offset) && (room > 0 || self.stack.eager_fin) {
                self.send_fin(now_us);
            }
            break;
        }
        if self.snd_nxt == started && self.timer.is_some() {
            return;
        }
        if self.snd_nxt != self.snd_una || self.has_waiting() {
            self.start_timer(now_us);
        }
    }

    /// The time that it waits for has come.
    pub(in super::super) fn expire(&mut self, now_us: u64) {
        match self.state {
            State::Closed(_) => return,
            State::TimeWait => return self.close(now_us, End::Finished),
            _ => {}
        }
        if now_us >= self.script.deadline_us {
            if self.state != State::SynSent {
                self.send_rst(now_us);
            }
            return self.close(now_us, End::GaveUp);
        }
        self.timer = None;
        self.retries += 1;
        self.asked_again += 1;
        if self.retries > RETRIES_MAX {
            if self.state == State::Open {
                self.send_rst(now_us);
            }
            return self.close(now_us, End::TimedOut);
        }
        self.wait_us *= 2;
        match self.state {
            State::SynSent | State::SynReceived => self.send_syn(now_us),
            _ if self.snd_una != self.snd_nxt => {
                // Everything again, from where the other end is.
                self.snd_nxt = self.snd_una;
                self.fin_sent = false;
                if self.snd_wnd == 0 {
                    return self.probe(now_us);
                }
                self.output(now_us);
            }
            _ => self.probe(now_us),
        }
    }

    /// Asks for the window (RFC 9293 3.8.6.1).
    fn probe(&mut self, now_us: u64) {
        let offset = self.snd_nxt.wrapping_sub(self.iss).wrapping_sub(1);
        if self.stack.probes_with_data && self.released() > offset {
            let packet = self.packet(now_us, Flags::ACK, self.snd_nxt, 1);
            self.out.push(packet);
            self.snd_max = self.snd_nxt.wrapping_add(1);
        } else {
            let old = self.snd_una.wrapping_sub(1);
            let packet = self.packet(now_us, Flags::ACK, old, 0);
            self.out.push(packet);
        }
        self.start_timer(now_us);
    }

    pub(super) fn start_timer(&mut self, now_us: u64) {
        self.timer = Some(now_us + self.wait_us);
    }

    /// Something new was acknowledged.
    pub(super) fn progress(&mut self) {
        self.retries = 0;
        self.wait_us = RTO_US;
        self.timer = None;
    }

    /// Bytes that the application has given to send.
    fn released(&self) -> u32 {
        if self.script.speaks_first || self.received >= self.script.expects {
            self.script.sends
        } else {
            0
        }
    }

    /// Whether the application has sent and received all that it wants.
    fn is_done(&self) -> bool {
        self.received >= self.script.expects && self.sent_all()
    }

    fn may_fin(&self, offset: u32) -> bool {
        let wants = if self.script.closes_first {
            self.received >= self.script.expects
        } else {
            self.fin_received
        };
        wants && !self.fin_sent && offset == self.script.sends && !self.script.resets
    }

    /// Whether something waits for the window.
    fn has_waiting(&self) -> bool {
        let offset = self.snd_nxt.wrapping_sub(self.iss).wrapping_sub(1);
        self.released() > offset || self.may_fin(offset)
    }

    fn send_data(&mut self, now_us: u64, len: u32) {
        let packet = self.packet(now_us, Flags::ACK, self.snd_nxt, len);
        self.out.push(packet);
        self.advance(len);
    }

    fn send_fin(&mut self, now_us: u64) {
        let flags = Flags::ACK.with(Flags::FIN);
        let packet = self.packet(now_us, flags, self.snd_nxt, 0);
        self.out.push(packet);
        self.fin_sent = true;
        self.advance(1);
    }

    fn advance(&mut self, len: u32) {
        self.snd_nxt = self.snd_nxt.wrapping_add(len);
        if super::before(self.snd_max, self.snd_nxt) {
            self.snd_max = self.snd_nxt;
        }
    }

    fn packet(&self, now_us: u64, flags: Flags, seq: u32, len: u32) -> Packet {
        Packet {
            connection: Some(self.connection),
            tuple: self.tuple,
            seq,
            ack: self.rcv_nxt,
            flags,
            window: (RECEIVE_WINDOW >> self.scales.map_or(0, |(ours, _)| ours)).min(u16::MAX.into())
                as u16,
            options: timestamps(self.ts_recent.map(|echo| Timestamps {
                value: self.clock(now_us),
                echo,
            })),
            len,
            offset: seq.wrapping_sub(self.iss).wrapping_sub(1),
        }
    }
}
