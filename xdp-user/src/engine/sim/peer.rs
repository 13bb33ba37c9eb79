//! Clients and backends with different habits, who know what they have to get.

use super::net::{End, Fault, Link, Random, Read};

/// The byte at `offset` of the stream with this number.
pub(super) fn byte(stream: u64, offset: u64) -> u8 {
    let mixed = (stream.wrapping_mul(0x9E37_79B9) ^ offset).wrapping_mul(0x2545_F491_4F6C_DD1D);
    (mixed >> 56) as u8
}

/// What a peer does when it has sent all it has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Sends its FIN, and reads on.
    Fin,
    /// Waits for the other's FIN first.
    FinAfterEof,
    /// Closes, and reads nothing more.
    Close,
    /// Resets.
    Reset,
    /// Nothing.
    Silence,
}

/// A client or a backend.
#[derive(Debug)]
pub(super) struct Peer {
    sends: u64,
    expects: u64,
    bytes: u64,
    ending: Ending,
    /// It reads no more than these.
    appetite: u64,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) fin_sent: bool,
    pub(super) eof: bool,
    pub(super) fault: Option<Fault>,
    pub(super) gone: bool,
}

impl Peer {
    /// One that sends the stream `sends` and expects the stream `expects`.
    pub(super) fn new(random: &mut Random, sends: u64, expects: u64) -> Self {
        Self {
            sends,
            expects,
            bytes: random.of(&[0, 0, 1, 10, 100, 300]),
            ending: random.of(&[
                Ending::Fin,
                Ending::Fin,
                Ending::FinAfterEof,
                Ending::FinAfterEof,
                Ending::Close,
                Ending::Reset,
                Ending::Silence,
            ]),
            appetite: if random.one_in(8) {
                random.below(100)
            } else {
                u64::MAX
            },
            sent: 0,
            received: 0,
            fin_sent: false,
            eof: false,
            fault: None,
            gone: false,
        }
    }

    /// Writes a little, or does what comes after that. Returns whether anything happened.
    pub(super) fn write(&mut self, random: &mut Random, link: &mut Link) -> bool {
        if self.gone || self.fault.is_some() || self.fin_sent {
            return false;
        }
        let n = (self.bytes - self.sent).min(1 + random.below(40));
        if n > 0 {
            let chunk: Vec<u8> = (self.sent..self.sent + n)
                .map(|offset| byte(self.sends, offset))
                .collect();
            return match link.write(End::Peer, &chunk) {
                Ok(n) => {
                    self.sent += n as u64;
                    n > 0
                }
                Err(fault) => {
                    // What is there is still read.
                    if !self.read(random, link) {
                        self.fault = Some(fault);
                    }
                    true
                }
            };
        }
        match self.ending {
            Ending::Fin => {}
            Ending::FinAfterEof if self.eof => {}
            Ending::FinAfterEof | Ending::Silence => return false,
            Ending::Close => {
                link.close(End::Peer);
                self.gone = true;
                self.fin_sent = true;
                return true;
            }
            Ending::Reset => {
                link.reset(End::Peer);
                self.gone = true;
                return true;
            }
        }
        link.fin(End::Peer);
        self.fin_sent = true;
        true
    }

    /// Reads a little. Returns whether anything happened.
    pub(super) fn read(&mut self, random: &mut Random, link: &mut Link) -> bool {
        let max = (self.appetite - self.received).min(1 + random.below(40));
        if self.gone || self.fault.is_some() || max == 0 {
            return false;
        }
        match link.read(End::Peer, max as usize) {
            Read::Bytes(bytes) => {
                for got in bytes {
                    let expected = byte(self.expects, self.received);
                    assert_eq!(got, expected, "byte {} is another", self.received);
                    self.received += 1;
                }
                true
            }
            Read::Eof => !std::mem::replace(&mut self.eof, true),
            Read::Broken(fault) => self.fault.replace(fault).is_none(),
            Read::Blocked => false,
        }
    }

    /// Whether it reads whatever comes.
    pub(super) fn is_hungry(&self) -> bool {
        self.appetite == u64::MAX && !self.gone
    }
}
