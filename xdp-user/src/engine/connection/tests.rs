//! Every rule once, in the words of the actions.

use super::{Action::*, *};
use crate::engine::tcp::Side::{Backend, Client};

const TIMEOUTS: Timeouts = Timeouts {
    header_ms: 50,
    connect_ms: 100,
    first_byte_ms: 200,
    idle_ms: 1_000,
    close_wait_ms: 300,
    fin_wait_ms: 400,
};

const OFF: Timeouts = Timeouts {
    header_ms: 0,
    connect_ms: 0,
    first_byte_ms: 0,
    idle_ms: 0,
    close_wait_ms: 0,
    fin_wait_ms: 0,
};

struct Case {
    connection: Connection,
    now: Tick,
}

impl Case {
    fn accepted(retries: u8) -> Self {
        let mut case = Self {
            connection: Connection::new(Tick(0), retries),
            now: Tick(0),
        };
        let accepted = Event::Accepted {
            header_expected: false,
        };
        case.gives(accepted, &[Admit]);
        case
    }

    fn connecting(retries: u8) -> Self {
        let mut case = Self::accepted(retries);
        case.gives(Event::Admitted, &[Connect]);
        case.legs(TcpState::Established, TcpState::SynSent);
        case
    }

    fn open() -> Self {
        let mut case = Self::connecting(0);
        case.gives(Event::Connected, &[Open]);
        case.legs(TcpState::Established, TcpState::Established);
        case
    }

    #[track_caller]
    fn gives(&mut self, event: Event, actions: &[Action]) {
        let given = self.connection.handle(self.now, event, &TIMEOUTS);
        assert_eq!(given.into_iter().collect::<Vec<_>>(), actions, "{event:?}");
        if let Some(CloseBoth(_)) = actions.last() {
            assert_eq!(self.connection.phase(), Phase::Closed);
            self.legs(TcpState::Closed, TcpState::Closed);
        }
    }

    #[track_caller]
    fn legs(&self, client: TcpState, backend: TcpState) {
        let legs = [Client, Backend].map(|side| self.connection.state(side));
        assert_eq!(legs, [client, backend]);
    }

    #[track_caller]
    fn ends_at(&self, at: u64, reason: CloseReason) {
        let deadline = self.connection.deadline(&TIMEOUTS);
        assert_eq!(deadline, Some((Tick(at), reason)));
    }

    fn at(&mut self, ms: u64) -> &mut Self {
        self.now = Tick(ms);
        self
    }

    fn touch(&mut self) {
        self.connection.touch(self.now);
    }
}

fn reset(side: Side, unsent: bool) -> Event {
    Event::Reset { side, unsent }
}

fn error(side: Side, kind: LegError) -> Event {
    Event::Error {
        side,
        kind,
        unsent: false,
    }
}

#[test]
fn a_fin_is_passed_on_and_the_other_direction_goes_on() {
    for (side, closed, sent) in [
        (Client, TcpState::CloseWait, TcpState::FinWait1),
        (Backend, TcpState::CloseWait, TcpState::FinWait1),
    ] {
        let mut case = Case::open();
        case.gives(Event::Fin(side), &[ShutdownWrite(side.other())]);
        assert_eq!(case.connection.state(side), closed);
        assert_eq!(case.connection.state(side.other()), sent);
        assert_eq!(case.connection.phase(), Phase::Open);
        case.gives(Event::FinAcked(side.other()), &[]);
        assert_eq!(case.connection.state(side.other()), TcpState::FinWait2);
        case.gives(Event::Fin(side), &[]);
        case.gives(
            Event::Fin(side.other()),
            &[ShutdownWrite(side), CloseBoth(CloseReason::Finished)],
        );
    }
}

#[test]
fn a_fin_that_waits_for_its_bytes_is_shown_but_not_passed_on() {
    let mut case = Case::open();
    case.touch();
    case.gives(Event::FinReceived(Client), &[]);
    case.legs(TcpState::CloseWait, TcpState::Established);
    case.ends_at(300, CloseReason::CloseWaitTimeout);
    case.gives(Event::FinReceived(Backend), &[]);
    case.legs(TcpState::CloseWait, TcpState::CloseWait);
    case.gives(Event::Fin(Client), &[ShutdownWrite(Backend)]);
    case.legs(TcpState::CloseWait, TcpState::LastAck);
    case.gives(Event::FinAcked(Backend), &[]);
    case.gives(
        Event::Fin(Backend),
        &[ShutdownWrite(Client), CloseBoth(CloseReason::Finished)],
    );
}

#[test]
fn fins_that_cross_give_closing() {
    let mut case = Case::open();
    case.gives(Event::Fin(Client), &[ShutdownWrite(Backend)]);
    case.gives(Event::FinReceived(Backend), &[]);
    case.legs(TcpState::CloseWait, TcpState::Closing);
    case.gives(Event::FinAcked(Backend), &[]);
    case.legs(TcpState::CloseWait, TcpState::TimeWait);
}

#[test]
fn a_reset_with_nothing_on_the_way_is_passed_on_at_once() {
    for (side, reason) in [
        (Client, CloseReason::ClientReset),
        (Backend, CloseReason::BackendReset),
    ] {
        let mut case = Case::open();
        case.gives(
            reset(side, false),
            &[Reset(side.other()), CloseBoth(reason)],
        );
    }
}

#[test]
fn bytes_that_were_sent_before_a_reset_arrive_before_it() {
    for (side, reason) in [
        (Client, CloseReason::ClientReset),
        (Backend, CloseReason::BackendReset),
    ] {
        let to = side.other();
        let mut case = Case::open();
        case.at(10).gives(reset(side, true), &[AwaitFlush(to)]);
        assert_eq!(case.connection.phase(), Phase::Resetting(to));
        assert_eq!(case.connection.state(side), TcpState::Closed);
        assert_eq!(case.connection.state(to), TcpState::Established);
        case.gives(reset(side, true), &[]);
        case.gives(Event::Fin(side), &[]);
        case.gives(Event::Fin(to), &[]);
        case.gives(Event::Flushed(side), &[]);
        case.gives(Event::Flushed(to), &[Reset(to), CloseBoth(reason)]);
    }
}

#[test]
fn a_receiver_that_takes_nothing_does_not_hold_a_reset_up() {
    let mut case = Case::open();
    case.at(10)
        .gives(reset(Backend, true), &[AwaitFlush(Client)]);
    case.ends_at(1_010, CloseReason::BackendReset);
    case.at(500).touch();
    case.at(1_010).gives(Event::Timer, &[]);
    case.ends_at(1_500, CloseReason::BackendReset);
    let end = [Reset(Client), CloseBoth(CloseReason::BackendReset)];
    case.at(1_500).gives(Event::Timer, &end);
}

#[test]
fn while_a_flush_is_awaited_the_first_cause_counts() {
    for event in [Event::Killed, Event::DrainExpired] {
        let mut case = Case::open();
        case.gives(reset(Client, true), &[AwaitFlush(Backend)]);
        let end = [Reset(Backend), CloseBoth(CloseReason::ClientReset)];
        case.gives(event, &end);
    }
    let mut case = Case::open();
    case.gives(reset(Client, true), &[AwaitFlush(Backend)]);
    case.gives(
        reset(Backend, false),
        &[CloseBoth(CloseReason::ClientReset)],
    );
}

#[test]
fn a_reset_after_the_fin_is_passed_on() {
    let mut case = Case::open();
    case.gives(Event::Fin(Client), &[ShutdownWrite(Backend)]);
    let end = [Reset(Backend), CloseBoth(CloseReason::ClientReset)];
    case.gives(reset(Client, false), &end);

    let mut case = Case::open();
    case.gives(Event::Fin(Client), &[ShutdownWrite(Backend)]);
    case.gives(reset(Client, true), &[AwaitFlush(Backend)]);
    case.gives(Event::Flushed(Backend), &end);
}

#[test]
fn a_broken_leg_is_a_reset_for_the_other() {
    for (side, kind, reason) in [
        (Client, LegError::TimedOut, CloseReason::ClientTimedOut),
        (Backend, LegError::TimedOut, CloseReason::BackendTimedOut),
        (
            Client,
            LegError::Unreachable,
            CloseReason::ClientUnreachable,
        ),
        (
            Backend,
            LegError::Unreachable,
            CloseReason::BackendUnreachable,
        ),
        (Client, LegError::Other, CloseReason::Io),
        (Backend, LegError::Other, CloseReason::Io),
    ] {
        let mut case = Case::open();
        case.gives(error(side, kind), &[Reset(side.other()), CloseBoth(reason)]);
    }
    let mut case = Case::open();
    let unsent = Event::Error {
        side: Client,
        kind: LegError::TimedOut,
        unsent: true,
    };
    case.gives(unsent, &[AwaitFlush(Backend)]);
    let end = [Reset(Backend), CloseBoth(CloseReason::ClientTimedOut)];
    case.gives(Event::Flushed(Backend), &end);
}

#[test]
fn a_client_that_resets_before_it_is_connected_takes_the_connect_along() {
    let mut case = Case::connecting(2);
    case.gives(
        reset(Client, true),
        &[Reset(Backend), CloseBoth(CloseReason::ClientReset)],
    );
    let mut case = Case::accepted(2);
    case.gives(reset(Client, false), &[CloseBoth(CloseReason::ClientReset)]);
}

#[test]
fn a_fin_while_connecting_waits_for_the_backend() {
    let mut case = Case::connecting(0);
    case.gives(Event::FinReceived(Client), &[]);
    case.gives(Event::Fin(Client), &[]);
    case.gives(Event::Connected, &[Open]);
    case.gives(Event::Fin(Client), &[ShutdownWrite(Backend)]);
}

#[test]
fn a_failed_connect_is_tried_again_as_often_as_allowed() {
    for (failure, reason) in [
        (ConnectError::Refused, CloseReason::ConnectRefused),
        (ConnectError::Timeout, CloseReason::ConnectTimeout),
        (ConnectError::Unreachable, CloseReason::ConnectUnreachable),
        (ConnectError::NoLocalPort, CloseReason::NoLocalPort),
        (ConnectError::Other, CloseReason::ConnectFailed),
    ] {
        let mut case = Case::connecting(2);
        for _ in 0..2 {
            assert!(case.connection.may_retry());
            case.gives(Event::ConnectFailed(failure), &[Connect]);
            case.legs(TcpState::Established, TcpState::SynSent);
        }
        assert!(!case.connection.may_retry());
        let end = [Reset(Client), CloseBoth(reason)];
        case.gives(Event::ConnectFailed(failure), &end);
    }
}

#[test]
fn without_file_descriptors_another_attempt_makes_no_sense() {
    let mut case = Case::connecting(2);
    let end = [Reset(Client), CloseBoth(CloseReason::FdsExhausted)];
    case.gives(Event::ConnectFailed(ConnectError::Fds), &end);
}

#[test]
fn each_attempt_to_connect_has_its_own_time() {
    let mut case = Case::connecting(1);
    case.ends_at(100, CloseReason::ConnectTimeout);
    case.at(99).gives(Event::Timer, &[]);
    case.at(100).gives(Event::Timer, &[AbandonConnect, Connect]);
    case.ends_at(200, CloseReason::ConnectTimeout);
    let end = [
        AbandonConnect,
        Reset(Client),
        CloseBoth(CloseReason::ConnectTimeout),
    ];
    case.at(200).gives(Event::Timer, &end);
}

#[test]
fn what_the_kernel_says_about_a_connect_counts_as_its_failure() {
    for (event, reason) in [
        (reset(Backend, false), CloseReason::ConnectRefused),
        (
            error(Backend, LegError::TimedOut),
            CloseReason::ConnectTimeout,
        ),
        (
            error(Backend, LegError::Unreachable),
            CloseReason::ConnectUnreachable,
        ),
        (error(Backend, LegError::Other), CloseReason::ConnectFailed),
    ] {
        let mut case = Case::connecting(1);
        case.gives(event, &[Connect]);
        case.gives(event, &[Reset(Client), CloseBoth(reason)]);
    }
}

#[test]
fn without_a_backend_the_client_is_reset() {
    let mut case = Case::connecting(2);
    let end = [Reset(Client), CloseBoth(CloseReason::NoBackend)];
    case.gives(Event::NoBackend, &end);

    let mut case = Case::connecting(2);
    case.gives(Event::ConnectFailed(ConnectError::Refused), &[Connect]);
    let end = [Reset(Client), CloseBoth(CloseReason::ConnectRefused)];
    case.gives(Event::NoBackend, &end);
}

#[test]
fn a_stop_lets_connections_go_on_for_a_while() {
    let mut case = Case::open();
    case.gives(Event::Draining, &[]);
    case.gives(Event::Fin(Client), &[ShutdownWrite(Backend)]);
    let end = [
        Reset(Client),
        Reset(Backend),
        CloseBoth(CloseReason::DrainTimeout),
    ];
    case.gives(Event::DrainExpired, &end);

    let mut case = Case::connecting(2);
    case.gives(Event::Draining, &[]);
    assert!(!case.connection.may_retry());
    let end = [Reset(Client), CloseBoth(CloseReason::ConnectRefused)];
    case.gives(Event::ConnectFailed(ConnectError::Refused), &end);
}

#[test]
fn killed_is_reset_on_both_sides() {
    let mut case = Case::open();
    let both = [
        Reset(Client),
        Reset(Backend),
        CloseBoth(CloseReason::Killed),
    ];
    case.gives(Event::Killed, &both);
    Case::connecting(2).gives(Event::Killed, &both);
    let end = [Reset(Client), CloseBoth(CloseReason::Killed)];
    Case::accepted(2).gives(Event::Killed, &end);
}

#[test]
fn only_what_is_not_connected_yet_is_evicted_or_refused() {
    let mut case = Case::connecting(2);
    let end = [
        Reset(Client),
        Reset(Backend),
        CloseBoth(CloseReason::HalfOpenEvicted),
    ];
    case.gives(Event::Evicted, &end);
    let end = [Reset(Client), CloseBoth(CloseReason::Refused)];
    Case::accepted(2).gives(Event::Refused, &end);

    let mut case = Case::open();
    case.gives(Event::Evicted, &[]);
    case.gives(Event::Refused, &[]);
    case.legs(TcpState::Established, TcpState::Established);
}

#[test]
fn a_header_comes_first_where_one_is_expected() {
    let header = || {
        let mut case = Case {
            connection: Connection::new(Tick(0), 0),
            now: Tick(0),
        };
        let accepted = Event::Accepted {
            header_expected: true,
        };
        case.gives(accepted, &[]);
        case.ends_at(50, CloseReason::HeaderTimeout);
        case
    };
    let mut case = header();
    case.at(20).gives(Event::Header, &[Admit]);
    case.ends_at(120, CloseReason::ConnectTimeout);
    case.gives(Event::Header, &[]);
    case.gives(Event::Admitted, &[Connect]);

    let invalid = [Reset(Client), CloseBoth(CloseReason::HeaderInvalid)];
    header().gives(Event::HeaderInvalid, &invalid);
    header().gives(Event::Fin(Client), &invalid);
    let late = [Reset(Client), CloseBoth(CloseReason::HeaderTimeout)];
    header().at(50).gives(Event::Timer, &late);
}

#[test]
fn the_deadline_is_the_first_that_applies() {
    let mut case = Case::open();
    case.ends_at(200, CloseReason::FirstByteTimeout);
    case.at(10).touch();
    case.ends_at(1_010, CloseReason::IdleTimeout);
    case.at(20)
        .gives(Event::Fin(Client), &[ShutdownWrite(Backend)]);
    case.ends_at(320, CloseReason::CloseWaitTimeout);
    // A long download after the client's FIN lives as long as bytes move.
    case.at(5_000).touch();
    case.ends_at(5_300, CloseReason::CloseWaitTimeout);
    let end = |reason| [Reset(Client), Reset(Backend), CloseBoth(reason)];
    case.at(5_299).gives(Event::Timer, &[]);
    case.at(5_300)
        .gives(Event::Timer, &end(CloseReason::CloseWaitTimeout));

    let mut case = Case::open();
    case.at(10).touch();
    case.gives(Event::Fin(Backend), &[ShutdownWrite(Client)]);
    case.ends_at(410, CloseReason::FinWaitTimeout);
    case.at(410)
        .gives(Event::Timer, &end(CloseReason::FinWaitTimeout));

    let mut case = Case::open();
    case.at(200)
        .gives(Event::Timer, &end(CloseReason::FirstByteTimeout));

    let mut case = Case::open();
    case.at(10).touch();
    case.at(1_010)
        .gives(Event::Timer, &end(CloseReason::IdleTimeout));
}

#[test]
fn a_fin_without_a_byte_does_not_prolong_the_wait_for_the_first() {
    let mut case = Case::open();
    case.at(150)
        .gives(Event::Fin(Client), &[ShutdownWrite(Backend)]);
    case.ends_at(200, CloseReason::FirstByteTimeout);
}

#[test]
fn a_timeout_of_zero_is_for_ever() {
    let mut case = Case::open();
    assert_eq!(case.connection.deadline(&OFF), None);
    let given = case.connection.handle(Tick(u64::MAX), Event::Timer, &OFF);
    assert!(given.is_empty());
    case.gives(Event::Fin(Client), &[ShutdownWrite(Backend)]);
    assert_eq!(case.connection.deadline(&OFF), None);
    // The idle timeout applies to half-closed connections where they have none of their own.
    let idle = Timeouts { idle_ms: 7, ..OFF };
    let end = Some((Tick(7), CloseReason::IdleTimeout));
    assert_eq!(case.connection.deadline(&idle), end);
    // Bytes before a RST are never waited for for ever.
    case.gives(reset(Backend, true), &[AwaitFlush(Client)]);
    let end = Some((Tick(1_000), CloseReason::BackendReset));
    assert_eq!(case.connection.deadline(&OFF), end);
}

#[test]
fn nothing_happens_after_the_end() {
    let mut case = Case::open();
    case.gives(
        reset(Client, false),
        &[Reset(Backend), CloseBoth(CloseReason::ClientReset)],
    );
    for event in [
        Event::Accepted {
            header_expected: true,
        },
        Event::Header,
        Event::HeaderInvalid,
        Event::Admitted,
        Event::Refused,
        Event::NoBackend,
        Event::ConnectFailed(ConnectError::Refused),
        Event::Connected,
        Event::FinReceived(Client),
        Event::Fin(Backend),
        Event::FinAcked(Backend),
        reset(Backend, true),
        error(Backend, LegError::TimedOut),
        Event::Flushed(Backend),
        Event::Timer,
        Event::Evicted,
        Event::Killed,
        Event::Draining,
        Event::DrainExpired,
    ] {
        case.at(1 << 40).gives(event, &[]);
    }
    assert_eq!(case.connection.deadline(&TIMEOUTS), None);
}
