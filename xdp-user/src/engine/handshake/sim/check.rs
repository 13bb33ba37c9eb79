//! What has to be true when all is over.

use super::{Connection, Habit, Sim, endpoint::End};
use crate::engine::handshake::outcome::Outcome;

impl Sim {
    pub(super) fn check(&self) {
        assert_eq!(self.connections.len() as u32, self.to_start);
        assert_eq!(self.levee.flows_left(), 0, "flows are left");
        assert_eq!(self.engine.depth(self.levee.service.id), 0);
        assert_eq!(self.engine.next(), None, "a timer is left");
        assert_eq!(self.levee.answered.next(), None, "a SYN-ACK is left");
        for connection in &self.connections {
            self.check_connection(connection);
        }
        if self.conditions.lost == 0 {
            assert_eq!(self.reaped, 0, "flows that nobody knew to be over");
        }
    }

    fn check_connection(&self, connection: &Connection) {
        let client = &connection.client.end;
        let show = || {
            let servers = connection.servers.iter().map(|server| &server.end);
            let servers: Vec<_> = servers.collect();
            format!(
                "lost {}, started {}: {client:#?}\nservers: {servers:#?}",
                connection.lost, connection.started_us
            )
        };
        let ends = connection.servers.iter().map(|server| &server.end);
        for end in ends.clone().chain([client]) {
            assert!(end.end().is_some(), "never ended: {}", show());
        }
        if client.end() == Some(End::Finished) {
            let [_, script] = &connection.scripts;
            let agrees = |end: &&super::Endpoint| {
                end.irs == client.iss
                    && end.received == script.expects
                    && end.snd_nxt.wrapping_sub(end.iss) == client.rcv_nxt.wrapping_sub(client.irs)
            };
            assert!(ends.clone().any(|end| agrees(&end)), "{}", show());
        }
        if self.is_owed(connection) {
            let client_end = client.end();
            let fine = match connection.scripts {
                [client, _] if client.resets => client_end == Some(End::ResetItself),
                // A RST that is lost is not repeated.
                [_, server] if server.resets && connection.lost > 0 => true,
                [_, server] if server.resets => client_end == Some(End::Reset),
                _ => client_end == Some(End::Finished),
            };
            assert!(fine, "{}", show());
        }
        if self.conditions.is_perfect() {
            for end in ends.chain([client]) {
                assert_eq!(end.complaints, [], "{}", show());
            }
        }
    }

    /// Whether nothing excuses a connection that is not completed.
    fn is_owed(&self, connection: &Connection) -> bool {
        let [client, _] = connection.scripts;
        let turned_away = [
            Outcome::HalfOpenFull,
            Outcome::TableFull,
            Outcome::SourceInUse,
        ];
        let all_welcome = turned_away
            .iter()
            .all(|outcome| self.levee.ended[outcome.index()] == 0);
        let some_serve = self.habits.contains(&Habit::Good) || self.habits.contains(&Habit::Slow);
        let all_tried = usize::from(self.levee.service.attempts_max) >= self.habits.len();
        let patient = client.deadline_us > connection.started_us + 100_000_000;
        all_welcome && some_serve && all_tried && patient && connection.lost <= 1
    }
}
