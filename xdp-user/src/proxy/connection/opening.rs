//! The way of a connection from `accept` until bytes flow.

use std::{
    task::{Context, Poll, ready},
    time::Instant,
};

use super::Serve;
use crate::{
    engine::{
        connection::Event,
        half_open::Place,
        reason::{ConnectError, Refusal},
        tcp::Side,
    },
    proxy::{
        connect::{self, Started},
        header::{self, HEADER_MAX, Parsed},
        hosted::Tried,
        leg::{Got, Leg},
    },
};

impl Serve {
    /// Takes a place among the service's connections, where that was not possible before, and in
    /// its half-open queue.
    pub(super) fn admit(&mut self) -> Event {
        let slot = &self.slot;
        if let Some(via) = slot.via.get() {
            let client = slot.client.get().ip();
            // An upstream is not bound by what bounds its clients.
            let client = (slot.client.get() != via).then_some(client);
            match self.worker.admit(&slot.hosting, client) {
                Ok(admitted) => slot.set_admitted(admitted),
                Err(reason) => return self.refuse(reason),
            }
        }
        let spoke = self.legs[0].as_ref().is_some_and(Leg::has_input);
        match slot.enter_half_open(self.now, spoke) {
            Place::Free => {}
            Place::Evicted { key } => self.worker.evict(key),
            Place::Full => return self.refuse(Refusal::HalfOpenFull),
        }
        Event::Admitted
    }

    fn refuse(&self, reason: Refusal) -> Event {
        self.slot.service().stats.refused[reason.index()].count();
        Event::Refused
    }

    pub(super) fn connect(&mut self) -> Option<Event> {
        let slot = &self.slot;
        if self.tried != Tried::default() {
            slot.service().stats.retries.count();
        }
        let client = slot.client.get();
        let (index, shared) = (self.worker.index(), self.worker.shared());
        let picked = slot
            .hosted
            .pick(client.ip(), &mut self.tried, index, shared);
        let Some(guard) = picked else {
            return Some(Event::NoBackend);
        };
        let backend = guard.backend().address;
        slot.set_backend(Some(guard));
        let config = &slot.service().config;
        let started = connect::start(backend, config, client, slot.id.serial as usize);
        let leg = match started {
            Ok(Started::Connected(leg)) => {
                self.connected = true;
                leg
            }
            Ok(Started::InProgress(leg)) => {
                self.connected = false;
                leg
            }
            Err(error) => {
                self.connect_ended(Err(error));
                return Some(Event::ConnectFailed(error));
            }
        };
        self.legs[1] = Some(leg);
        None
    }

    /// Takes note of how the attempt to connect ended.
    pub(super) fn connect_ended(&mut self, result: Result<(), ConnectError>) {
        let service = self.slot.service();
        if let Some(backend) = self.slot.backend() {
            service.report_connect(&backend, self.now, result);
        }
        if result.is_ok() {
            service.stats.connect.observe(self.since.elapsed());
        } else {
            self.legs[1] = None;
            self.slot.set_backend(None);
        }
    }

    /// Gives the place in the half-open queue back, and tells the backend who the client is.
    pub(super) fn open(&mut self) {
        self.since = Instant::now();
        self.owes_ack = true;
        let slot = &self.slot;
        slot.leave_half_open(self.now);
        if let Some(version) = slot.service().config.send_proxy {
            let (client, service) = (slot.client.get(), slot.service().address);
            let write = |buffer: &mut [u8]| header::write(version, client, service, buffer);
            self.transfers[0].put_first(&self.worker, write);
        }
    }

    /// Reads the PROXY header, and nothing behind it.
    pub(super) fn poll_header(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(client) = &mut self.legs[0] else {
            return Poll::Pending;
        };
        ready!(client.poll_readable(cx));
        let mut scratch = self.worker.scratch();
        let event = match client.peek(&mut scratch[..HEADER_MAX]) {
            Got::Blocked => return Poll::Ready(()),
            Got::Eof => Event::Fin(Side::Client),
            Got::Broken(failure) => {
                drop(scratch);
                self.broken(Side::Client, failure);
                return Poll::Ready(());
            }
            Got::Bytes(n) => match header::parse(&scratch[..n]) {
                Parsed::Invalid => Event::HeaderInvalid,
                Parsed::Incomplete if client.await_more() => return Poll::Ready(()),
                Parsed::Incomplete => Event::HeaderInvalid,
                Parsed::Complete { len, client: told } => {
                    // They were there a moment ago, and nobody else reads them.
                    client.read(&mut scratch[..len]);
                    let upstream = self.slot.client.get();
                    self.slot.via.set(Some(upstream));
                    self.slot.client.set(told.unwrap_or(upstream));
                    Event::Header
                }
            },
        };
        drop(scratch);
        self.tell(event);
        Poll::Ready(())
    }

    pub(super) fn poll_connecting(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let [Some(client), Some(backend)] = &mut self.legs else {
            return Poll::Pending;
        };
        let answer = if self.connected {
            Poll::Ready(Ok(()))
        } else {
            backend.poll_connected(cx)
        };
        match answer {
            Poll::Ready(result) => {
                let result = result.map_err(connect::failed);
                self.connect_ended(result);
                self.tell(match result {
                    Ok(()) => Event::Connected,
                    Err(error) => Event::ConnectFailed(error),
                });
                Poll::Ready(())
            }
            Poll::Pending => {
                if let Poll::Ready(failure) = client.poll_broken(cx) {
                    self.broken(Side::Client, failure);
                    return Poll::Ready(());
                }
                if client.has_input() {
                    self.slot.hosted.spoke(self.slot.id.slot);
                }
                Poll::Pending
            }
        }
    }
}
