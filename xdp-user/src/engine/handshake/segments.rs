//! The segments of a handshake, all that levee ever sends in one.

use xdp_common::{
    cookie::Family,
    splice::flow::Hop,
    tuple::{Addr, Tuple},
    wire::{
        tcp::Flags,
        tcp_options::{TcpOptions, Timestamps},
    },
};

use super::{
    client::{Client, shifted},
    effects::Translation,
    half_open::HalfOpen,
    outgoing::Outgoing,
    received::Received,
};

/// Address and port.
type End = (Addr, u16);

/// The SYN to the target: the client's, as far as the cookie remembers it.
pub(super) fn syn(entry: &HalfOpen, hop: Hop) -> Outgoing {
    let client = &entry.client;
    // RFC 3168 6.1.1.
    let ecn = Flags::ECE.with(Flags::CWR);
    let flags = if client.ecn {
        Flags::SYN.with(ecn)
    } else {
        Flags::SYN
    };
    Outgoing {
        window: client.syn_window(),
        options: TcpOptions {
            mss: Some(client.offer.mss),
            window_scale: client.offer.window_scale,
            sack: client.offer.sack,
            timestamps: client.timestamps.map(|theirs| Timestamps {
                value: theirs.value,
                echo: 0,
            }),
        },
        ..to_target(entry, hop, client.isn, flags)
    }
}

/// The ACK that completes the handshake with the target: the client's own, in the target's numbers.
pub(super) fn ack(
    entry: &HalfOpen,
    hop: Hop,
    syn_ack: &Received,
    translation: &Translation,
) -> Outgoing {
    let client = &entry.client;
    Outgoing {
        ack: syn_ack.seq.wrapping_add(1),
        window: shifted(client.window, translation.client_shift),
        options: timestamps(client.timestamps.zip(syn_ack.options.timestamps).map(
            |(theirs, targets)| Timestamps {
                value: theirs.value,
                echo: targets.value,
            },
        )),
        ..to_target(entry, hop, client.next(), Flags::ACK)
    }
}

/// A RST for a target that has answered, or may have: it expects the number behind the SYN
/// (RFC 9293 3.10.7.4).
pub(super) fn target_reset(entry: &HalfOpen, hop: Hop) -> Outgoing {
    to_target(entry, hop, entry.client.next(), Flags::RST)
}

/// A RST for a target that acknowledged what was not sent (RFC 9293 3.10.7.3).
pub(super) fn target_rebuff(entry: &HalfOpen, hop: Hop, segment: &Received) -> Outgoing {
    to_target(entry, hop, segment.ack, Flags::RST)
}

/// Opens the window of the client, which the cookie left shut, as far as the target's SYN-ACK says.
pub(super) fn window_update(
    client: &Client,
    syn_ack: &Received,
    translation: &Translation,
) -> Outgoing {
    Outgoing {
        // RFC 7323 2.2: a SYN-ACK's window is not scaled.
        window: syn_ack.window >> translation.offered_scale,
        ..to_client(client, Flags::ACK)
    }
}

/// Answers a SYN that is not this connection's: if the client knows nothing of this one any more, it
/// says so with a RST (RFC 9293 3.10.7.4).
pub(super) fn challenge(client: &Client) -> Outgoing {
    to_client(client, Flags::ACK)
}

/// Tells the client that there is no connection after all.
pub(super) fn client_reset(client: &Client) -> Outgoing {
    to_client(client, Flags::RST.with(Flags::ACK))
}

fn to_client(client: &Client, flags: Flags) -> Outgoing {
    // A RST needs no timestamps, and they would do no harm (RFC 7323 3.2).
    let echoed = client.timestamps.map(|theirs| Timestamps {
        value: theirs.echo,
        echo: theirs.value,
    });
    Outgoing {
        ack: client.next(),
        options: timestamps(echoed),
        ..bare(
            client.family,
            client.hop,
            client.service,
            (client.addr, client.port),
            client.expected(),
            flags,
        )
    }
}

fn to_target(entry: &HalfOpen, hop: Hop, seq: u32, flags: Flags) -> Outgoing {
    let attempt = &entry.attempt;
    let target = (attempt.choice.addr, attempt.choice.port);
    bare(entry.client.family, hop, attempt.source, target, seq, flags)
}

const fn timestamps(timestamps: Option<Timestamps>) -> TcpOptions {
    TcpOptions {
        mss: None,
        window_scale: None,
        sack: false,
        timestamps,
    }
}

/// A segment with nothing in it.
const fn bare(
    family: Family,
    hop: Hop,
    (src, src_port): End,
    (dst, dst_port): End,
    seq: u32,
    flags: Flags,
) -> Outgoing {
    Outgoing {
        hop,
        family,
        tuple: Tuple {
            src,
            dst,
            src_port,
            dst_port,
        },
        seq,
        ack: 0,
        flags,
        window: 0,
        options: timestamps(None),
    }
}
