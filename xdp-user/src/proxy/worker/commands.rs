//! What the controller asks of a worker.

use std::rc::Rc;

use socket2::Socket;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{mpsc::UnboundedReceiver, oneshot},
    task::spawn_local,
    time,
};

use super::{Accepting, Command, RETIRE_GRACE, Worker};
use crate::{
    engine::tcp::Side,
    proxy::{
        hosted::{Hosted, Hosting},
        info::{Filter, Listing},
        keepalive, listener,
        slot::{Signal, Slot},
    },
};

impl Worker {
    /// Does what is asked until nobody can ask any more.
    pub(in crate::proxy) async fn run(self: Rc<Self>, mut commands: UnboundedReceiver<Command>) {
        while let Some(command) = commands.recv().await {
            match command {
                Command::Serve(hosting, socket) => self.serve(hosting, socket),
                Command::Replace(hosting) => self.replace(hosting),
                Command::Retire(address) => {
                    if let Some(accepting) = self.services.borrow_mut().remove(&address) {
                        spawn_local(async move {
                            time::sleep(RETIRE_GRACE).await;
                            accepting.hosted.retire();
                        });
                    }
                }
                // Whoever asked may have gone; the answer is nobody's then.
                Command::List(filter, max, answer) => {
                    answer.send(self.list(&filter, max)).ok();
                }
                Command::Kill(filter, answer) => {
                    let chosen = |slot: &Slot| slot.matches(&filter, self.now());
                    answer.send(self.signal(Signal::Kill, chosen)).ok();
                }
                Command::Drain(answer) => self.drain(answer),
                Command::DrainExpired => {
                    self.signal(Signal::DrainExpired, |_| true);
                }
            }
        }
    }

    fn drain(&self, answer: oneshot::Sender<()>) {
        self.draining.set(true);
        self.signal(Signal::Drain, |_| true);
        let retired: Vec<_> = self.services.take().into_values().collect();
        for accepting in &retired {
            accepting.hosted.retire();
        }
        spawn_local(async move {
            for accepting in retired {
                drop(accepting.socket);
                // A listener whose task panicked is closed as well.
                accepting.task.await.ok();
            }
            answer.send(()).ok();
        });
    }

    fn serve(self: &Rc<Self>, hosting: Hosting, socket: Socket) {
        let address = hosting.runtime.address;
        // SAFETY: the socket owns its descriptor, which stays the same and open until it is dropped,
        // and nothing takes it out of here.
        let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        let socket = match registered {
            Ok(socket) => Rc::new(socket),
            Err(error) => {
                log::error!("cannot wait for connections at {address}: {error}");
                return;
            }
        };
        let hosted = Rc::new(Hosted::new(hosting, self.index, &self.shared));
        let accept = listener::accept(Rc::clone(&hosted), Rc::clone(self), Rc::clone(&socket));
        let accepting = Accepting {
            hosted,
            socket,
            task: spawn_local(accept),
        };
        self.services.borrow_mut().insert(address, accepting);
    }

    fn replace(&self, hosting: Hosting) {
        let services = self.services.borrow();
        let Some(accepting) = services.get(&hosting.runtime.address) else {
            return;
        };
        let probes = hosting.runtime.config.keepalive[Side::Client.index()];
        if let Err(error) = keepalive::set(accepting.socket.get_ref(), probes) {
            let address = hosting.runtime.address;
            log::warn!("cannot change the keepalive probes of {address}: {error}");
        }
        accepting.hosted.replace(hosting, self.index, &self.shared);
    }

    /// Lists connections.
    fn list(&self, filter: &Filter, max: usize) -> Listing {
        let now = self.now();
        let mut listing = Listing::default();
        for (_, slot) in &*self.slots.borrow() {
            if slot.matches(filter, now) {
                listing.matched += 1;
                if listing.rows.len() < max {
                    listing.rows.push(slot.info(now));
                }
            }
        }
        listing
    }

    /// Signals to those that are chosen, and tells how many they are.
    fn signal(&self, signal: Signal, chosen: impl Fn(&Slot) -> bool) -> u64 {
        let mut signalled = 0;
        for (_, slot) in &*self.slots.borrow() {
            if chosen(slot) {
                slot.signal(signal);
                signalled += 1;
            }
        }
        signalled
    }
}
