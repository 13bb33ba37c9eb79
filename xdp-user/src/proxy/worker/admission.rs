//! How clients come to a worker, and leave it.

use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::Instant,
};

use nix::errno::Errno;
use socket2::Socket;
use tokio::task::spawn_local;

use super::{LOG_PAUSE, Worker};
use crate::{
    engine::reason::{AcceptError, Refusal},
    proxy::{
        connection::Serve,
        header,
        hosted::{Hosted, Hosting},
        info::ConnectionId,
        leg::Leg,
        runtime::ServiceRuntime,
        slot::{Admitted, Signal, Slot},
    },
};

impl Worker {
    /// Takes on a client, or turns it away.
    pub(in crate::proxy) fn accepted(
        self: &Rc<Self>,
        hosted: &Rc<Hosted>,
        client: Socket,
        address: SocketAddr,
    ) {
        let hosting = hosted.hosting();
        let header = match header::is_expected(&hosting.runtime.config, address.ip()) {
            Ok(header) => header,
            Err(reason) => return hosted.refuse(client, reason),
        };
        if let Err(reason) = self.shared.enter() {
            return hosted.refuse(client, reason);
        }
        // Behind an upstream it is not known yet who the client is.
        let admitted = (!header).then(|| self.admit(&hosting, Some(address.ip())));
        let admitted = match admitted.transpose() {
            Ok(admitted) => admitted,
            Err(reason) => {
                self.shared.leave();
                return hosted.refuse(client, reason);
            }
        };
        let prepared = hosted.set_keepalive(&client);
        let leg = match prepared.and_then(|()| Leg::connected(client)) {
            Ok(leg) => leg,
            Err(error) => {
                log::warn!("cannot use the socket of {address}: {error}");
                self.left(&hosting.runtime, admitted);
                return;
            }
        };
        hosting.runtime.stats.accepted.count();
        self.stats.connections.add(1);
        let slot = self.place(hosting, Rc::clone(hosted), address, admitted);
        if self.draining.get() {
            slot.signal(Signal::Drain);
        }
        spawn_local(Serve::new(slot, Rc::clone(self), leg, header));
    }

    /// Counts a connection of `client`, or of an upstream for itself, to a service.
    ///
    /// # Errors
    /// Fails with the first bound that is reached.
    pub(in crate::proxy) fn admit(
        &self,
        hosting: &Hosting,
        client: Option<IpAddr>,
    ) -> Result<Admitted, Refusal> {
        let permit =
            self.shared
                .enter_service(self.now(), &hosting.runtime, hosting.number, client)?;
        Ok(Admitted { client, permit })
    }

    fn left(&self, runtime: &ServiceRuntime, admitted: Option<Admitted>) {
        if let Some(admitted) = admitted {
            self.shared
                .leave_service(runtime, admitted.client, admitted.permit);
        }
        self.shared.leave();
    }

    fn place(
        &self,
        hosting: Hosting,
        hosted: Rc<Hosted>,
        client: SocketAddr,
        admitted: Option<Admitted>,
    ) -> Rc<Slot> {
        let mut slots = self.slots.borrow_mut();
        let entry = slots.vacant_entry();
        self.serial.set(self.serial.get().wrapping_add(1));
        let id = ConnectionId {
            worker: self.index,
            slot: entry.key() as u32,
            serial: self.serial.get(),
        };
        let slot = Slot::new(id, hosting, hosted, client, admitted, self.now());
        let slot = Rc::new(slot);
        entry.insert(Rc::clone(&slot));
        slot
    }

    /// Forgets a connection that ended.
    pub(in crate::proxy) fn leave(&self, slot: &Slot) {
        self.deadlines.clear(slot.id.slot);
        slot.leave_half_open(self.now());
        self.slots.borrow_mut().remove(slot.id.slot as usize);
        self.left(&slot.hosting.runtime, slot.take_admitted());
        self.stats.connections.add(-1);
    }

    /// Counts a failed `accept`, and logs one a minute.
    pub(in crate::proxy) fn accept_failed(&self, reason: AcceptError, errno: Errno) {
        self.stats.accept_errors[reason.index()].count();
        let now = Instant::now();
        let logged = self.accept_error_logged.get();
        if logged.is_none_or(|logged| now - logged >= LOG_PAUSE) {
            self.accept_error_logged.set(Some(now));
            log::warn!("cannot accept a client: {errno}");
        }
    }
}
