//! A flow for a client and the next target.

use xdp_common::{
    splice::flow::{CLIENT, Flow, MARK_ACKED, Seen, TARGET},
    tuple::Addr,
};

use super::{
    attempt::SYN_WAIT_MS,
    client::Client,
    effects::{Choice, FlowId, Flows as _, OpenError, Service, World},
    half_open::{Attempt, Tried},
    outcome::{Notice, Outcome},
};
use crate::engine::{Tick, balancer::BackendSet, reason::ConnectError};

/// Addresses and ports that are tried towards one target: of a pool nine tenths of which are in use,
/// one connection in a million finds none.
pub const SOURCE_PROBES_MAX: u8 = 128;

/// Chooses targets that were not tried yet until a flow to one can be opened. `Err` when none is
/// left: with `outcome` if nothing else was in the way.
pub(super) fn next(
    now: Tick,
    client: &Client,
    service: &Service,
    tried: &mut Tried,
    mut outcome: Outcome,
    world: &mut impl World,
) -> Result<Attempt, Outcome> {
    while tried.count < service.attempts_max {
        let Some(choice) = world.choose(service.id, client.addr, tried.positions) else {
            break;
        };
        tried.count += 1;
        tried.positions |= 1 << (u32::from(choice.position) % BackendSet::BITS);
        match open(client, service, &choice, world) {
            Ok((flow, source)) => {
                return Ok(Attempt {
                    flow,
                    choice,
                    source,
                    deadline: now.after(u64::from(service.connect_timeout_ms)),
                    wait_ms: SYN_WAIT_MS,
                    sent: false,
                    mistaken: false,
                });
            }
            Err(Outcome::SourceInUse) => {
                outcome = Outcome::SourceInUse;
                world.attempted(service.id, &choice, Err(ConnectError::NoLocalPort));
            }
            Err(full) => return Err(full),
        }
    }
    Err(outcome)
}

/// Opens a flow to this target, from the first source that is free. If none is, from one whose flow
/// is over: the target may still wait for late segments of it, too.
fn open(
    client: &Client,
    service: &Service,
    choice: &Choice,
    world: &mut impl World,
) -> Result<(FlowId, (Addr, u16)), Outcome> {
    let mut failure = Outcome::SourceInUse;
    let mut over = None;
    for probe in 0..SOURCE_PROBES_MAX {
        let from = (client.addr, client.port);
        let Some(source) = world.source(service.id, choice, from, probe) else {
            break;
        };
        let flow = pending(client, service, choice, source);
        match world.flows_mut().open(&flow) {
            Ok(id) => return Ok((id, source)),
            Err(OpenError::TargetInUse(other)) => {
                if over.is_none() && world.flows().get(other).is_over() {
                    over = Some((other, flow));
                }
            }
            Err(OpenError::Full) => return Err(Outcome::TableFull),
            // Another source may have room. The client's own side may not, or be taken, which the
            // engine has looked up before: then no source helps.
            Err(OpenError::NoRoom | OpenError::ClientInUse(_)) => failure = Outcome::IndexFull,
        }
    }
    let Some((other, flow)) = over else {
        return Err(failure);
    };
    world.flows_mut().close(other);
    world.notice(service.id, Notice::FlowReused);
    match world.flows_mut().open(&flow) {
        Ok(id) => Ok((id, (flow.nat, flow.nat_port))),
        Err(OpenError::Full) => Err(Outcome::TableFull),
        Err(_) => Err(Outcome::IndexFull),
    }
}

fn pending(client: &Client, service: &Service, choice: &Choice, source: (Addr, u16)) -> Flow {
    let (nat, nat_port) = source;
    let acked = |acked| Seen {
        acked,
        marks: MARK_ACKED,
        ..Seen::default()
    };
    let mut seen = [Seen::default(); 2];
    // What both sides will have acknowledged when the flow is opened.
    seen[CLIENT] = acked(client.expected());
    seen[TARGET] = acked(client.next());
    Flow {
        client: client.addr,
        nat,
        client_port: client.port,
        nat_port,
        service: service.id,
        target: choice.target,
        client_isn: client.isn,
        seen,
        hop: client.hop,
        ..Flow::default()
    }
}
