//! The deadlines of a worker's connections: one wheel, and one timer that follows it.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::pin,
    task::Poll,
    time::Duration,
};

use tokio::{sync::Notify, time};

use crate::engine::{Tick, wheel::Wheel};

/// Deadlines by connection.
#[derive(Debug)]
pub(super) struct Deadlines {
    wheel: RefCell<Wheel>,
    /// What the timer waits for; `None` for a deadline to be set.
    awaited: Cell<Option<Tick>>,
    earlier: Notify,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            wheel: RefCell::new(Wheel::new(Tick(0))),
            awaited: Cell::new(None),
            earlier: Notify::new(),
        }
    }
}

impl Deadlines {
    /// Sets the deadline of `key`, in place of the one it had.
    pub(super) fn set(&self, key: u32, deadline: Tick) {
        self.wheel.borrow_mut().set(key, deadline);
        if self.awaited.get().is_none_or(|awaited| deadline < awaited) {
            self.earlier.notify_one();
        }
    }

    /// Forgets the deadline of `key`.
    pub(super) fn clear(&self, key: u32) {
        self.wheel.borrow_mut().clear(key);
    }

    /// Appends the keys whose deadlines are reached; true when there are more.
    pub(super) fn take(&self, now: Tick, expired: &mut Vec<u32>) -> bool {
        self.wheel.borrow_mut().advance(now, expired)
    }

    /// Waits until the wheel has something to do.
    pub(super) async fn reached(&self, now: impl Fn() -> Tick) {
        loop {
            let next = self.wheel.borrow().next();
            self.awaited.set(next);
            let Some(next) = next else {
                self.earlier.notified().await;
                continue;
            };
            let wait = next.since(now());
            if wait == 0 {
                return;
            }
            let mut timer = pin!(time::sleep(Duration::from_millis(wait)));
            let mut earlier = pin!(self.earlier.notified());
            let reached = poll_fn(|cx| {
                if timer.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(true);
                }
                earlier.as_mut().poll(cx).map(|()| false)
            });
            if reached.await {
                return;
            }
        }
    }
}
