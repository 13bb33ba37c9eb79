//! A client whose cookie came back, and what it wants of a target.

use xdp_common::{
    abi::OFFER_TIMESTAMPS,
    answer::echoed_ecn,
    cookie::{self, Family, Key, Offer},
    splice::flow::Hop,
    tuple::Addr,
    wire::tcp_options::Timestamps,
};

use super::{effects::Service, received::Received};

/// How far a client may have gone behind its ISN before its window is opened: its SYN, and the byte
/// with which some stacks probe a zero window (RFC 9293 3.8.6.1).
const SENT_MAX: u32 = 2;

/// What a client has proven and offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Client {
    /// The network protocol.
    pub(super) family: Family,
    /// Its address.
    pub(super) addr: Addr,
    /// Its port.
    pub(super) port: u16,
    /// The service's address and port.
    pub(super) service: (Addr, u16),
    /// The way to it.
    pub(super) hop: Hop,
    /// Its initial sequence number.
    pub(super) isn: u32,
    /// What it takes for the server's: the cookie.
    pub(super) cookie: u32,
    /// What it offered in its SYN, as far as the service can do it.
    pub(super) offer: Offer,
    /// Its newest timestamp, and the newest of levee's that it echoed; `None` without timestamps.
    pub(super) timestamps: Option<Timestamps>,
    /// Whether ECN was agreed on.
    pub(super) ecn: bool,
    /// Its newest window, scaled by what it offered.
    pub(super) window: u16,
}

impl Client {
    /// The client that returns a valid cookie in this segment; `None` if there is no such cookie.
    pub(super) fn proven(segment: &Received, service: &Service, keys: &[Key; 2]) -> Option<Self> {
        let cookie = segment.ack.wrapping_sub(1);
        // The ACK that ends the handshake, or the first data. Or, where that or our answer to it
        // was lost, the probe of a zero window, which repeats the number before (RFC 9293 3.8.6.1
        // leaves open which; Linux sends no data with it).
        let (isn, offer) = [1, 0].into_iter().find_map(|sent| {
            let isn = segment.seq.wrapping_sub(sent);
            let (_, offer) = cookie::verify(segment.family, keys, &segment.tuple, isn, cookie)?;
            Some((isn, offer))
        })?;
        // A client that agreed to timestamps sends them in every segment (RFC 7323 3.2).
        let timestamps = segment
            .options
            .timestamps
            .filter(|_| service.offer & OFFER_TIMESTAMPS != 0);
        Some(Self {
            family: segment.family,
            addr: segment.tuple.src,
            port: segment.tuple.src_port,
            service: (segment.tuple.dst, segment.tuple.dst_port),
            hop: segment.hop,
            isn,
            cookie,
            offer,
            timestamps,
            ecn: timestamps.is_some_and(|theirs| echoed_ecn(theirs.echo)),
            window: segment.window,
        })
    }

    /// The next sequence number of the client that anybody has acknowledged.
    pub(super) const fn next(&self) -> u32 {
        self.isn.wrapping_add(1)
    }

    /// The sequence number that the client expects.
    pub(super) const fn expected(&self) -> u32 {
        self.cookie.wrapping_add(1)
    }

    /// Whether a segment with ACK belongs to this handshake.
    pub(super) const fn is_of(&self, segment: &Received) -> bool {
        segment.ack == self.expected() && segment.seq.wrapping_sub(self.isn) <= SENT_MAX
    }

    /// Takes over what a further segment of this handshake says, if it is newer.
    pub(super) fn refresh(&mut self, segment: &Received) {
        if let Some(known) = &mut self.timestamps {
            let Some(theirs) = segment.options.timestamps else {
                return;
            };
            if is_older(theirs.value, known.value) {
                return;
            }
            known.value = theirs.value;
            if !is_older(theirs.echo, known.echo) {
                known.echo = theirs.echo;
            }
        }
        self.window = segment.window;
        self.hop = segment.hop;
    }

    /// The client's window as it stands in a SYN, where nothing is scaled (RFC 7323 2.2).
    pub(super) fn syn_window(&self) -> u16 {
        shifted(self.window, self.offer.window_scale.unwrap_or(0))
    }
}

/// Whether a timestamp is before another (RFC 7323 5.2: modulo 2^32).
const fn is_older(value: u32, than: u32) -> bool {
    (value.wrapping_sub(than) as i32) < 0
}

/// A window in units of `1 << scale` as one of bytes, as far as 16 bits go.
pub(super) fn shifted(window: u16, scale: u8) -> u16 {
    let bytes = u64::from(window) << scale;
    u16::try_from(bytes).unwrap_or(u16::MAX)
}
