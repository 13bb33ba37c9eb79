//! The thread's sockets: one for each receive queue of each interface.

use std::{
    collections::HashMap,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, XskMap};
use xdp_common::abi::{QUEUES_MAX, xsk_slot};

use crate::{
    engine::handshake::received::{Received, Unreadable},
    netlink::link::Link,
    xsk::{self, XskSocket},
};

/// Frames read from one socket before the others have their turn.
const BATCH_MAX: usize = 64;

/// The sockets.
#[derive(Debug)]
pub(super) struct Links {
    ports: Vec<Port>,
    /// The first queue's socket, by the interface's index: frames are sent through it.
    exits: HashMap<u32, usize>,
}

#[derive(Debug)]
struct Port {
    ifindex: u32,
    socket: XskSocket,
}

impl Links {
    /// Opens the sockets and puts them into `xsks`: from then on the data path hands frames over.
    pub(super) fn open(links: &[Link], xsks: &mut XskMap<MapData>) -> Result<Self> {
        let mut ports = Vec::new();
        let mut exits = HashMap::new();
        for link in links {
            let queues = xsk::receive_queues(link)?;
            if queues > QUEUES_MAX {
                log::warn!(
                    "{}: has {queues} receive queues, of which spliced connections are served on \
                     the first {QUEUES_MAX} only; allowed: up to {QUEUES_MAX} (ethtool -L)",
                    link.name
                );
            }
            exits.insert(link.index, ports.len());
            for queue in 0..queues.min(QUEUES_MAX) {
                let socket = XskSocket::open(link, queue)?;
                xsks.set(xsk_slot(link.index, queue), socket.as_fd().as_raw_fd(), 0)
                    .with_context(|| {
                        format!("{}: cannot put a socket into the map XSKS", link.name)
                    })?;
                let ifindex = link.index;
                ports.push(Port { ifindex, socket });
            }
        }
        Ok(Self { ports, exits })
    }

    /// Reads what has come, and hands it over. True if there may be more.
    pub(super) fn receive(&mut self, mut each: impl FnMut(Result<Received, Unreadable>)) -> bool {
        let mut more = false;
        for Port { ifindex, socket } in &mut self.ports {
            let count = socket.receive(BATCH_MAX, |frame| each(Received::parse(frame, *ifindex)));
            more |= count == BATCH_MAX;
        }
        more
    }

    /// Takes a frame to be sent through an interface. False if it is lost.
    pub(super) fn send(&mut self, ifindex: u32, frame: &[u8]) -> bool {
        let exit = self.exits.get(&ifindex);
        exit.is_some_and(|&exit| self.ports[exit].socket.send(frame))
    }

    /// Sends what was taken.
    pub(super) fn flush(&mut self) {
        for port in &mut self.ports {
            port.socket.flush();
        }
    }

    /// Whether some of what was taken could not be sent yet.
    pub(super) fn is_sending(&self) -> bool {
        self.ports.iter().any(|port| port.socket.is_sending())
    }

    /// The descriptors to wait for.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.ports.iter().map(|port| port.socket.as_fd())
    }

    /// What all sockets have counted.
    pub(super) fn counts(&self) -> Result<xsk::Counts> {
        let mut sum = xsk::Counts::default();
        for port in &self.ports {
            sum += port.socket.counts()?;
        }
        Ok(sum)
    }
}
