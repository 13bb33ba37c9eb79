//! What an end makes of a segment (RFC 9293 3.10.7).

use super::{Complaint, End, Endpoint, Flags, Packet, RECEIVE_WINDOW, State, before, refuse};

impl Endpoint {
    pub(in super::super) fn receive(&mut self, now_us: u64, packet: &Packet) {
        match self.state {
            State::Closed(_) => self.out.extend(refuse(packet)),
            State::SynSent => self.in_syn_sent(now_us, packet),
            State::SynReceived | State::Open | State::TimeWait => {
                if self.is_acceptable(now_us, packet) {
                    self.synchronized(now_us, packet);
                }
            }
        }
        self.output(now_us);
    }

    fn in_syn_sent(&mut self, now_us: u64, packet: &Packet) {
        let acks = packet.has(Flags::ACK);
        if acks && packet.ack != self.iss.wrapping_add(1) {
            self.out.extend(refuse(packet));
        } else if packet.has(Flags::RST) {
            if acks {
                self.close(now_us, End::Refused);
            }
        } else if packet.has(Flags::SYN.with(Flags::ACK)) {
            let offered = packet.options;
            if offered.timestamps.is_some() && !self.stack.timestamps
                || offered.window_scale.is_some() && self.stack.window_scale.is_none()
                || offered.sack && !self.stack.sack
            {
                self.complaints.push((Complaint::NotAskedFor, *packet));
            }
            self.agree(packet);
            self.snd_una = packet.ack;
            self.open();
            self.send_ack(now_us);
        }
    }

    fn open(&mut self) {
        self.state = State::Open;
        self.progress();
    }

    /// RFC 9293 3.10.7.4, "check sequence number", and RFC 7323 5.3 before it.
    fn is_acceptable(&mut self, now_us: u64, packet: &Packet) -> bool {
        let is_rst = packet.has(Flags::RST);
        // The SYN of another connection has other options.
        let exempt = is_rst || packet.has(Flags::SYN);
        if let (Some(recent), false) = (self.ts_recent, exempt) {
            let Some(theirs) = packet.options.timestamps else {
                self.complaints.push((Complaint::NoTimestamps, *packet));
                return false;
            };
            if before(theirs.value, recent) {
                self.complaints.push((Complaint::OldTimestamp, *packet));
                self.answer(now_us);
                return false;
            }
        }
        let len = packet.sequence_len();
        let last = packet.seq.wrapping_add(len.max(1) - 1);
        let ahead = |seq: u32| seq.wrapping_sub(self.rcv_nxt);
        if ahead(packet.seq) < RECEIVE_WINDOW || ahead(last) < RECEIVE_WINDOW {
            return true;
        }
        if !is_rst {
            self.answer(now_us);
        }
        false
    }

    /// Says where it is.
    fn answer(&mut self, now_us: u64) {
        if self.state == State::SynReceived {
            self.send_syn(now_us);
        } else {
            self.send_ack(now_us);
        }
    }

    fn synchronized(&mut self, now_us: u64, packet: &Packet) {
        if packet.has(Flags::RST) {
            // RFC 5961 3.2.
            if packet.seq == self.rcv_nxt {
                // In TIME_WAIT it has all, and a late segment of it was answered (RFC 1337).
                let has_all = self.state == State::TimeWait;
                self.close(now_us, if has_all { End::Finished } else { End::Reset });
            } else {
                self.send_ack(now_us);
            }
            return;
        }
        if packet.has(Flags::SYN) {
            // RFC 5961 4.2.
            return self.send_ack(now_us);
        }
        if !packet.has(Flags::ACK) {
            return;
        }
        if self.state == State::SynReceived {
            if packet.ack != self.iss.wrapping_add(1) {
                return self.out.extend(refuse(packet));
            }
            // As newer Linux does: what the first ACK echoes must be one of the SYN-ACK's timestamps.
            let echo = packet.options.timestamps.map(|theirs| theirs.echo);
            if echo.is_some_and(|echo| {
                before(echo, self.first_clock) || before(self.clock(now_us), echo)
            }) {
                self.complaints.push((Complaint::WrongEcho, *packet));
                return;
            }
            self.snd_wl1 = packet.seq.wrapping_sub(1);
            self.open();
        }
        if !self.acknowledged(now_us, packet) {
            return;
        }
        self.take_data(now_us, packet);
        self.close_if_done(now_us);
    }

    /// "Check the ACK field"; `false` if the segment is to be dropped.
    fn acknowledged(&mut self, now_us: u64, packet: &Packet) -> bool {
        if before(self.snd_max, packet.ack) {
            self.complaints.push((Complaint::WrongAck, *packet));
            self.send_ack(now_us);
            return false;
        }
        if let (Some(recent), Some(theirs)) = (&mut self.ts_recent, packet.options.timestamps)
            && !before(self.rcv_nxt, packet.seq)
        {
            *recent = theirs.value;
        }
        if before(self.snd_una, packet.ack) {
            self.snd_una = packet.ack;
            if before(self.snd_nxt, self.snd_una) {
                self.snd_nxt = self.snd_una;
                let sent = self.snd_nxt.wrapping_sub(self.iss).wrapping_sub(1);
                self.fin_sent = sent > self.script.sends;
            }
            self.progress();
        }
        let newer = before(self.snd_wl1, packet.seq)
            || self.snd_wl1 == packet.seq && !before(packet.ack, self.snd_wl2);
        if newer && !before(packet.ack, self.snd_una) {
            self.snd_wnd = u32::from(packet.window) << self.scales.map_or(0, |(_, theirs)| theirs);
            self.snd_wl1 = packet.seq;
            self.snd_wl2 = packet.ack;
            // The other end lives, whatever its window is.
            self.retries = 0;
        }
        true
    }

    fn take_data(&mut self, now_us: u64, packet: &Packet) {
        if packet.sequence_len() == 0 {
            return;
        }
        let old = self.rcv_nxt.wrapping_sub(packet.seq);
        if before(self.rcv_nxt, packet.seq) || self.fin_received {
            return self.send_ack(now_us);
        }
        if old <= packet.len {
            let new = packet.len - old;
            if new > 0 {
                assert_eq!(
                    packet.offset + old,
                    self.received,
                    "{packet:?} for {self:?}"
                );
                self.received += new;
                assert!(
                    self.received <= self.script.expects,
                    "{packet:?} for {self:?}"
                );
                self.rcv_nxt = self.rcv_nxt.wrapping_add(new);
            }
            if packet.has(Flags::FIN) {
                self.rcv_nxt = self.rcv_nxt.wrapping_add(1);
                self.fin_received = true;
            }
        }
        self.send_ack(now_us);
    }

    fn close_if_done(&mut self, now_us: u64) {
        let sent_fin = self.script.sends.wrapping_add(2);
        let fin_acked = self.snd_una.wrapping_sub(self.iss) == sent_fin;
        if self.state == State::TimeWait {
            // RFC 9293 3.10.7.4: a FIN again starts it anew.
            self.timer = Some(now_us + self.stack.time_wait_us);
        } else if self.fin_received && fin_acked {
            if self.script.closes_first {
                self.state = State::TimeWait;
                self.timer = Some(now_us + self.stack.time_wait_us);
            } else {
                self.close(now_us, End::Finished);
            }
        }
    }
}
