//! What all workers share: bounds on connections, in all and by client.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use anyhow::{Context as _, Result};

use super::{fds::Budget, runtime::ServiceRuntime};
use crate::{
    config::ProxyGlobals,
    engine::{
        Tick,
        limits::{LIMIT_ENTRIES_MAX, LimitTable, Permit, part_of},
        reason::Refusal,
    },
    secret::Secret,
};

/// Parts of the table of clients, each with its own lock, so that workers seldom meet there.
const PARTS: usize = 16;

/// Entries of one part that one sweep looks at.
const SWEEP: usize = 4_096;

/// Bounds, and keys of hashes that clients could otherwise steer.
pub(super) struct Shared {
    budget: Budget,
    connections: AtomicU32,
    /// Made when the first client has to be looked up: most services have no bounds by client.
    tables: Vec<Mutex<Option<LimitTable>>>,
    limits_key: [u64; 2],
    /// Machines with the same secret send a client to the same backend.
    pub(super) client_hash_key: [u64; 2],
    /// Bytes that may wait for slow receivers at one worker.
    pub(super) buffer_bytes_max: u64,
    /// Pipes that one worker may have.
    pub(super) pipes_max: u32,
    /// How many workers there are.
    pub(super) workers: u16,
}

/// What the table of clients holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitEntries {
    /// Entries in use.
    pub entries: usize,
    /// Connections that were admitted uncounted, because there was no room for their client.
    pub uncounted: u64,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The rest are keys, and a table of a size that nobody wants to read.
        f.debug_struct("Shared")
            .field("budget", &self.budget)
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// For a proxy with so many workers.
    ///
    /// # Errors
    /// Fails when the system gives no random numbers.
    pub(super) fn new(
        globals: &ProxyGlobals,
        budget: Budget,
        workers: u16,
        secret: &Secret,
    ) -> Result<Self> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).context("no random numbers")?;
        Ok(Self {
            budget,
            connections: AtomicU32::new(0),
            tables: (0..PARTS).map(|_| Mutex::default()).collect(),
            limits_key: words(random),
            client_hash_key: secret.client_hash_key(),
            buffer_bytes_max: globals.buffer_bytes_max / u64::from(workers),
            pipes_max: budget.pipes_max / u32::from(workers),
            workers,
        })
    }

    /// Connections that there may be at a time.
    pub(super) const fn connections_max(&self) -> u32 {
        self.budget.connections_max
    }

    /// Counts a connection, to be given back with [`leave`](Self::leave).
    ///
    /// # Errors
    /// Fails when there are as many as there may be.
    pub(super) fn enter(&self) -> Result<(), Refusal> {
        if take(&self.connections, self.budget.connections_max) {
            return Ok(());
        }
        Err(if self.budget.is_bound_by_fds {
            Refusal::FdsExhausted
        } else {
            Refusal::TotalConnections
        })
    }

    /// Counts a connection no more.
    pub(super) fn leave(&self) {
        self.connections.fetch_sub(1, Relaxed);
    }

    /// Counts a connection of `client`, or of nobody in particular, to a service, to be given back with
    /// [`leave_service`](Self::leave_service).
    ///
    /// # Errors
    /// Fails with the first bound that is reached.
    pub(super) fn enter_service(
        &self,
        now: Tick,
        service: &ServiceRuntime,
        number: u16,
        client: Option<IpAddr>,
    ) -> Result<Option<Permit>, Refusal> {
        let limits = &service.config.limits;
        let max = if limits.service == 0 {
            u32::MAX
        } else {
            limits.service
        };
        if !take(&service.active, max) {
            return Err(Refusal::ServiceConnections);
        }
        let Some(client) = client.filter(|_| limits.any_per_client()) else {
            return Ok(None);
        };
        let mut table = self.part(client);
        let table = table
            .get_or_insert_with(|| LimitTable::new(LIMIT_ENTRIES_MAX / PARTS, self.limits_key));
        let permit = table.enter(now, number, client, limits);
        if permit.is_err() {
            service.active.fetch_sub(1, Relaxed);
        }
        permit.map(Some)
    }

    /// Counts a connection to a service no more.
    pub(super) fn leave_service(
        &self,
        service: &ServiceRuntime,
        client: Option<IpAddr>,
        permit: Option<Permit>,
    ) {
        service.active.fetch_sub(1, Relaxed);
        if let (Some(client), Some(permit)) = (client, permit)
            && let Some(table) = &mut *self.part(client)
        {
            table.leave(permit);
        }
    }

    /// Forgets clients that no bound applies to any more.
    pub(super) fn sweep(&self, now: Tick) {
        for part in &self.tables {
            if let Some(table) = &mut *lock(part) {
                table.sweep(now, SWEEP);
            }
        }
    }

    /// What the tables hold.
    pub(super) fn limit_entries(&self) -> LimitEntries {
        let mut all = LimitEntries::default();
        for part in &self.tables {
            if let Some(table) = &*lock(part) {
                all.entries += table.entries();
                all.uncounted += table.uncounted();
            }
        }
        all
    }

    fn part(&self, client: IpAddr) -> MutexGuard<'_, Option<LimitTable>> {
        lock(&self.tables[part_of(client, PARTS, self.limits_key)])
    }
}

/// The table is whole whenever the lock is free, also after a panic.
fn lock(part: &Mutex<Option<LimitTable>>) -> MutexGuard<'_, Option<LimitTable>> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds one unless that would exceed `max`.
fn take(count: &AtomicU32, max: u32) -> bool {
    let next = |count: u32| (count < max).then_some(count + 1);
    count.fetch_update(Relaxed, Relaxed, next).is_ok()
}

fn words(bytes: [u8; 16]) -> [u64; 2] {
    let bits = u128::from_le_bytes(bytes);
    [bits as u64, (bits >> 64) as u64]
}
