//! What has to be true, while a connection lives and when it has ended.

use super::{
    SLOTS, World,
    driver::Proxied,
    net::{End, Fault, Link},
    peer::Peer,
};
use crate::engine::{
    connection::{Event, Phase},
    reason::{CloseReason, ConnectError},
    tcp::{Side, TcpState},
};

impl World {
    pub(super) fn check(&self, proxied: &Proxied) {
        for side in Side::ALL {
            let (engine, model) = (proxied.engine.state(side), proxied.model.state(side));
            assert_eq!(engine, model, "{side:?} {proxied:?}");
        }
        let deadline = proxied.engine.deadline(&self.timeouts);
        let expected = proxied.model.deadline(&self.timeouts);
        assert_eq!(deadline, expected, "{proxied:?}");
    }

    pub(super) fn check_gauges(&self) {
        for side in Side::ALL {
            for &state in TcpState::ALL {
                let live = self.slots.iter().flatten();
                let count = live.filter(|p| p.engine.state(side) == state).count();
                assert_eq!(self.states[side.index()][state.index()], count as i64);
            }
        }
        let connecting = self.slots.iter().flatten();
        let connecting = connecting.filter(|p| p.engine.phase() == Phase::Connecting);
        assert_eq!(self.queue.depth(), connecting.count());
    }

    /// Takes the connection out of everything, lets the network come to rest, and looks at what
    /// the peers have got.
    pub(super) fn check_end(&mut self, key: u32, event: Event, reason: CloseReason) {
        let Some(mut proxied) = self.slots[key as usize].take() else {
            return;
        };
        assert_eq!(proxied.engine.phase(), Phase::Closed);
        assert_eq!(proxied.engine.deadline(&self.timeouts), None);
        self.check(&proxied);
        self.ended[reason.index()] += 1;
        self.queue.leave(self.now, key);
        for side in Side::ALL {
            self.states[side.index()][proxied.engine.state(side).index()] -= 1;
            if let Some(link) = proxied.link(side) {
                if reason == CloseReason::Finished {
                    assert_eq!(link.unread(), 0);
                }
                link.close(End::Proxy);
            }
        }
        self.check_reason(&proxied, event, reason);
        proxied.settle(&mut self.random);
        let flushed = proxied.flushed;
        let mut links = proxied.links.iter();
        match (links.next(), links.next()) {
            (Some(Some(client)), Some(Some(backend))) => {
                check_peers(reason, flushed, client, backend);
                check_peers(reason, flushed, backend, client);
            }
            (Some(Some((link, peer))), _) => {
                assert_eq!(peer.received, 0);
                assert!(!peer.eof, "{reason:?} {link:?} {peer:?}");
                assert!(knows(link, peer), "{reason:?} {link:?} {peer:?}");
            }
            _ => panic!("no client: {:?}", proxied.serial),
        }
    }

    /// Whether the history explains the reason.
    fn check_reason(&self, proxied: &Proxied, event: Event, reason: CloseReason) {
        let model = &proxied.model;
        let explained = match reason {
            CloseReason::Finished => model
                .sides
                .iter()
                .all(|side| side.fin_in.is_some() && side.fin_out.is_some()),
            CloseReason::ClientReset
            | CloseReason::BackendReset
            | CloseReason::ClientTimedOut
            | CloseReason::BackendTimedOut
            | CloseReason::ClientUnreachable
            | CloseReason::BackendUnreachable
            | CloseReason::Io => Side::ALL.into_iter().any(|side| {
                let link = proxied.links[side.index()].as_ref();
                let fault = link.and_then(|(link, _)| link.fault(End::Proxy));
                fault.is_some_and(|fault| Proxied::reason(fault, side) == reason)
            }),
            CloseReason::NoBackend => event == Event::NoBackend,
            CloseReason::ConnectTimeout => match event {
                Event::Timer => self.is_over(proxied, reason),
                _ => event == Event::NoBackend,
            },
            CloseReason::ConnectRefused
            | CloseReason::ConnectUnreachable
            | CloseReason::ConnectFailed
            | CloseReason::NoLocalPort
            | CloseReason::FdsExhausted => {
                matches!(event, Event::ConnectFailed(error) if error.close_reason() == reason)
                    || event == Event::NoBackend
            }
            CloseReason::FirstByteTimeout
            | CloseReason::IdleTimeout
            | CloseReason::CloseWaitTimeout
            | CloseReason::FinWaitTimeout
            | CloseReason::HeaderTimeout => event == Event::Timer && self.is_over(proxied, reason),
            CloseReason::HeaderInvalid => {
                matches!(event, Event::HeaderInvalid | Event::Fin(Side::Client))
            }
            CloseReason::HalfOpenEvicted => event == Event::Evicted,
            CloseReason::Killed => event == Event::Killed,
            CloseReason::DrainTimeout => event == Event::DrainExpired,
            CloseReason::Refused => event == Event::Refused,
        };
        assert!(explained, "{reason:?} after {event:?}: {proxied:?}");
        let tries_max = 1 + u32::from(proxied.retries);
        assert!(model.attempts <= tries_max, "{proxied:?}");
        let gave_up = match event {
            Event::ConnectFailed(error) => error != ConnectError::Fds,
            Event::Timer => reason == CloseReason::ConnectTimeout,
            _ => false,
        };
        if gave_up && !model.draining {
            assert_eq!(model.attempts, tries_max, "{proxied:?}");
        }
        if let Some((_, first, cause)) = model.broken {
            assert_eq!(reason, cause, "{proxied:?}");
            let too_soon = match event {
                Event::Reset { side, unsent } | Event::Error { side, unsent, .. } => {
                    unsent && side == first
                }
                _ => false,
            };
            assert!(!too_soon, "{event:?} has thrown bytes away: {proxied:?}");
        }
    }

    /// Whether the time of a connection that ended was over.
    fn is_over(&self, proxied: &Proxied, reason: CloseReason) -> bool {
        let (at, why) = proxied.deadline_before.expect("it had a deadline");
        at <= self.now && why == reason
    }
}

/// Whether a peer knows that its connection is no more, if the network is there to tell it.
fn knows(link: &Link, peer: &Peer) -> bool {
    let cut_off = matches!(link.fault(End::Proxy), Some(Fault::Error(_)));
    let both_closed = peer.eof && peer.fin_sent;
    link.fault(End::Peer).is_some() || peer.gone || cut_off || both_closed
}

/// What `to` has to have got from `from` when nothing moves any more.
fn check_peers(reason: CloseReason, flushed: bool, from: &(Link, Peer), to: &(Link, Peer)) {
    let ((from_link, from), (to_link, to)) = (from, to);
    let context = || format!("{reason:?}\nfrom {from_link:?} {from:?}\nto {to_link:?} {to:?}");
    assert!(to.received <= from.sent, "{}", context());
    if to.eof {
        assert!(from.fin_sent, "a FIN from nowhere: {}", context());
        assert_eq!(to.received, from.sent, "a FIN before bytes: {}", context());
    }
    let reset = to_link.fault(End::Peer).is_some();
    if reason == CloseReason::Finished {
        assert!(from.fin_sent && to.fin_sent, "{}", context());
        // A link that broke after everything was written to it is nobody's loss but the peer's.
        if to.is_hungry() && to_link.fault(End::Proxy).is_none() {
            assert!(to.eof && !reset, "{}", context());
        }
    } else {
        assert!(knows(to_link, to), "nothing told the peer: {}", context());
        let broken = from_link.fault(End::Proxy).is_some();
        if flushed && broken && to_link.fault(End::Proxy).is_none() && to.is_hungry() {
            assert_eq!(to.received, from_link.arrived_at_proxy, "{}", context());
        }
    }
}

#[test]
fn random_connections_keep_the_rules() {
    run(0..55, 400);
}

#[test]
#[ignore = "takes minutes: a million connections more"]
fn a_million_random_connections_keep_the_rules() {
    run(1_000..3_500, 400);
}

fn run(seeds: std::ops::Range<u64>, connections: u64) {
    let mut ended = [0; CloseReason::COUNT];
    for seed in seeds {
        // Shown when the run fails.
        println!("seed {seed}");
        let mut world = World::new(seed);
        assert!(connections > SLOTS as u64);
        world.run(connections);
        for (sum, n) in ended.iter_mut().zip(world.ended) {
            *sum += n;
        }
    }
    for reason in CloseReason::ALL {
        println!("{:20} {}", reason.label(), ended[reason.index()]);
    }
    // Else the simulation shows nothing about it.
    for reason in CloseReason::ALL {
        assert!(ended[reason.index()] > 0, "{reason:?} never happened");
    }
}
