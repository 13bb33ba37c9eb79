//! Flows as operators see and select them.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use xdp_common::{
    splice::flow::{Flow, FlowState, reached},
    tuple::Addr,
};

use crate::{
    engine::{handshake::effects::FlowId, reaper::silent_s, tcp::TcpState},
    proxy::info::{ConnectionId, ConnectionInfo, Filter},
    splicing::directory::{Directory, SplicedService},
};

/// Stands in ids for the worker's number: no worker of the proxy has it.
const WORKER: u16 = u16::MAX;

/// What is known when flows are looked at.
pub(super) struct Surroundings<'a> {
    pub(super) clock_s: u32,
    pub(super) services: &'a HashMap<u16, Arc<SplicedService>>,
    pub(super) directory: &'a Directory,
}

/// The id of a flow: no other has the same number and was opened in the same second, for numbers
/// rest for a second.
fn id(number: FlowId, flow: &Flow) -> ConnectionId {
    ConnectionId {
        worker: WORKER,
        slot: number.0,
        serial: flow.opened_s,
    }
}

/// The states of both legs, as if levee were the peer of both ends.
pub(super) fn leg_states(flow: &Flow) -> [TcpState; 2] {
    use TcpState::{
        CloseWait, Closed, Established, FinWait1, FinWait2, LastAck, SynSent, TimeWait,
    };
    let [client, target] = flow.seen;
    let fin_wait = |acked: bool| if acked { FinWait2 } else { FinWait1 };
    match flow.tcp_state() {
        FlowState::SynSent => [Established, SynSent],
        FlowState::Established => [Established, Established],
        FlowState::ClientClosed => [CloseWait, fin_wait(reached(target, client.fin))],
        FlowState::TargetClosed => {
            let fin = target.fin.wrapping_add(flow.seq_delta);
            [fin_wait(reached(client, fin)), CloseWait]
        }
        FlowState::Closing => [LastAck, LastAck],
        FlowState::TimeWait => [TimeWait, TimeWait],
        FlowState::Closed => [Closed, Closed],
    }
}

impl Surroundings<'_> {
    /// Whether the filter selects a flow.
    pub(super) fn selects(&self, filter: &Filter, number: FlowId, flow: &Flow) -> bool {
        let service = self.services.get(&flow.service);
        let [client, target] = leg_states(flow);
        let age_ms = self.age_ms(flow);
        let fits = |wanted: Option<&str>, found: Option<&str>| wanted.is_none() || wanted == found;
        filter.id.is_none_or(|wanted| wanted == id(number, flow))
            && fits(filter.service.as_deref(), service.map(|s| &*s.runtime.name))
            && fits(filter.backend.as_deref(), self.backend(flow))
            && filter
                .client
                .is_none_or(|prefix| prefix.contains(flow.client.to_ip()))
            && filter
                .state
                .is_none_or(|state| state == client || state == target)
            && filter
                .idle_ms_min
                .is_none_or(|min| self.idle_ms(flow) >= min)
            && filter.age_ms_min.is_none_or(|min| age_ms >= min)
    }

    /// A flow as it is listed.
    pub(super) fn describe(&self, number: FlowId, flow: &Flow) -> ConnectionInfo {
        let service = self.services.get(&flow.service);
        let [client_state, backend_state] = leg_states(flow).map(|state| state.label().into());
        let idle_ms = self.idle_ms(flow);
        let timeout = service.and_then(|s| s.timeouts.of(flow.tcp_state()));
        let address = |(addr, port): (Addr, u16)| SocketAddr::new(addr.to_ip(), port);
        ConnectionInfo {
            id: id(number, flow).to_string(),
            service: service.map_or_else(|| "-".into(), |service| service.runtime.name.clone()),
            client: address((flow.client, flow.client_port)),
            via: None,
            backend: self.backend(flow).map(Into::into),
            backend_address: self.directory.target_address(flow.target).map(address),
            client_state,
            backend_state,
            age_ms: self.age_ms(flow),
            idle_ms,
            expires_in_ms: timeout.map(|s| (u64::from(s) * 1000).saturating_sub(idle_ms)),
            bytes_from_client: 0,
            bytes_from_backend: 0,
        }
    }

    /// The configured name of a flow's target.
    fn backend(&self, flow: &Flow) -> Option<&str> {
        let service = self.services.get(&flow.service)?;
        let mut targets = service.targets.iter();
        let target = targets.find(|target| target.slot == flow.target)?;
        Some(&target.backend.name)
    }

    fn age_ms(&self, flow: &Flow) -> u64 {
        match flow.tcp_state() {
            FlowState::SynSent => 0,
            _ => u64::from(self.clock_s.wrapping_sub(flow.opened_s)) * 1000,
        }
    }

    fn idle_ms(&self, flow: &Flow) -> u64 {
        match flow.tcp_state() {
            FlowState::SynSent => 0,
            _ => u64::from(silent_s(flow, self.clock_s)) * 1000,
        }
    }
}

#[cfg(test)]
mod tests {
    use xdp_common::splice::flow::{CLIENT, MARK_ACKED, MARK_FIN, STATE_OPEN, TARGET};

    use super::*;

    #[test]
    fn legs_have_the_states_that_a_peer_would_see() {
        let mut flow = Flow::default();
        let labels = |flow: &Flow| leg_states(flow).map(TcpState::label);
        assert_eq!(labels(&flow), ["ESTABLISHED", "SYN_SENT"]);
        flow.state = STATE_OPEN;
        assert_eq!(labels(&flow), ["ESTABLISHED", "ESTABLISHED"]);
        flow.seen[CLIENT].marks = MARK_FIN;
        flow.seen[CLIENT].fin = 10;
        assert_eq!(labels(&flow), ["CLOSE_WAIT", "FIN_WAIT_1"]);
        flow.seen[TARGET].marks = MARK_ACKED;
        flow.seen[TARGET].acked = 10;
        assert_eq!(labels(&flow), ["CLOSE_WAIT", "FIN_WAIT_2"]);
        flow.seen[TARGET].marks |= MARK_FIN;
        assert_eq!(labels(&flow), ["LAST_ACK", "LAST_ACK"]);
        flow.seen[CLIENT].marks = 0;
        assert_eq!(labels(&flow), ["FIN_WAIT_1", "CLOSE_WAIT"]);
    }
}
