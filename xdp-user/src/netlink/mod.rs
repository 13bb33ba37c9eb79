//! Questions to the kernel over netlink: which interfaces there are, who listens, which connections
//! there are. Unlike files under /sys, the answers are always of the network namespace that levee
//! runs in.

use anyhow::{Context as _, Result, bail, ensure};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

pub mod link;
pub mod listener;
#[cfg(test)]
pub(crate) mod namespace;
pub mod neighbour;
pub mod route;
pub mod sockets;

/// Datagrams read for one question, so that a kernel that never ends its answer ends it here.
const DATAGRAMS_MAX: usize = 65_536;

/// Bytes of one datagram. The kernel fills datagrams to half of it at most; only a single answer
/// may be longer.
const DATAGRAM_LEN_MAX: usize = 65_536;

/// Asks for all there is of something.
fn dump<M>(protocol: isize, request: M) -> Result<Vec<M>>
where
    M: NetlinkSerializable + NetlinkDeserializable,
{
    ask(protocol, request, NLM_F_REQUEST | NLM_F_DUMP)
}

/// Asks for one thing.
fn get<M>(protocol: isize, request: M) -> Result<M>
where
    M: NetlinkSerializable + NetlinkDeserializable,
{
    let answers = ask(protocol, request, NLM_F_REQUEST | NLM_F_ACK)?;
    answers.into_iter().next().context("no netlink answer")
}

/// Sends a request and returns every answer.
fn ask<M>(protocol: isize, request: M, flags: u16) -> Result<Vec<M>>
where
    M: NetlinkSerializable + NetlinkDeserializable,
{
    let mut answers = Vec::new();
    Channel::open(protocol)?.ask(request, flags, |answer| answers.push(answer))?;
    Ok(answers)
}

/// A netlink socket, for many questions. After an error it is of no more use.
struct Channel {
    socket: Socket,
    datagram: Vec<u8>,
}

impl Channel {
    fn open(protocol: isize) -> Result<Self> {
        let mut socket = Socket::new(protocol).context("cannot open a netlink socket")?;
        socket.bind_auto().context("cannot bind a netlink socket")?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            datagram: Vec::with_capacity(DATAGRAM_LEN_MAX),
        })
    }

    /// Sends a request and hands over every answer.
    fn ask<M>(&mut self, request: M, flags: u16, mut each: impl FnMut(M)) -> Result<()>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).context("netlink request")?;
        for _ in 0..DATAGRAMS_MAX {
            self.datagram.clear();
            let len = self
                .socket
                .recv(&mut self.datagram, nix::libc::MSG_TRUNC)
                .context("netlink answer")?;
            ensure!(
                len <= DATAGRAM_LEN_MAX,
                "netlink: an answer of {len} bytes, allowed: {DATAGRAM_LEN_MAX}"
            );
            if read_datagram(&self.datagram, &mut each)? {
                return Ok(());
            }
        }
        bail!("netlink: no end after {DATAGRAMS_MAX} datagrams");
    }
}

/// Hands over the answers in one datagram; true when it holds the end of all.
fn read_datagram<M: NetlinkDeserializable>(
    datagram: &[u8],
    each: &mut impl FnMut(M),
) -> Result<bool> {
    let mut rest = datagram;
    while !rest.is_empty() {
        let message = NetlinkMessage::<M>::deserialize(rest)
            .map_err(|error| anyhow::anyhow!("cannot read a netlink answer: {error}"))?;
        match message.payload {
            NetlinkPayload::InnerMessage(answer) => each(answer),
            NetlinkPayload::Done(_) => return Ok(true),
            // An error of none is the acknowledgement.
            NetlinkPayload::Error(error) if error.code.is_none() => return Ok(true),
            NetlinkPayload::Error(error) => return Err(error.to_io()).context("netlink answer"),
            _ => {}
        }
        // Messages are aligned to four bytes (NLMSG_ALIGN); the last may lack its padding.
        let len = (message.header.length as usize).next_multiple_of(4);
        rest = rest.get(len.max(4)..).unwrap_or_default();
    }
    Ok(false)
}
