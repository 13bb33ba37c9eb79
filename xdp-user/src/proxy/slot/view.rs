//! A connection as operators see it.

use super::Slot;
use crate::{
    engine::Tick,
    proxy::info::{ConnectionInfo, Filter},
};

impl Slot {
    /// Whether `filter` selects it.
    pub(in crate::proxy) fn matches(&self, filter: &Filter, now: Tick) -> bool {
        let name = self.backend().map(|backend| backend.name.clone());
        filter.id.is_none_or(|id| id == self.id)
            && filter
                .service
                .as_ref()
                .is_none_or(|s| *s == self.service().name)
            && filter
                .client
                .is_none_or(|prefix| prefix.contains(self.client.get().ip()))
            && filter
                .backend
                .as_ref()
                .is_none_or(|wanted| name.as_ref() == Some(wanted))
            && filter
                .state
                .is_none_or(|state| self.states().contains(&state))
            && filter.idle_ms_min.is_none_or(|ms| self.idle_ms(now) >= ms)
            && filter
                .age_ms_min
                .is_none_or(|ms| now.since(self.accepted) >= ms)
    }

    fn idle_ms(&self, now: Tick) -> u64 {
        now.since(self.engine.borrow().last_activity())
    }

    /// As `levee connections` shows it.
    pub(in crate::proxy) fn info(&self, now: Tick) -> ConnectionInfo {
        let backend = self.backend();
        let [client_state, backend_state] = self.states().map(|state| state.label().to_owned());
        ConnectionInfo {
            id: self.id.to_string(),
            service: self.service().name.clone(),
            client: self.client.get(),
            via: self.via.get(),
            backend: backend.as_ref().map(|backend| backend.name.clone()),
            backend_address: backend.map(|backend| backend.address),
            client_state,
            backend_state,
            age_ms: now.since(self.accepted),
            idle_ms: self.idle_ms(now),
            expires_in_ms: self.deadline().map(|at| at.since(now)),
            bytes_from_client: self.bytes[0].get(),
            bytes_from_backend: self.bytes[1].get(),
        }
    }
}
