//! Listing and ending connections of the proxy.

use serde::{Deserialize, Serialize};

use super::table::{bytes, duration_ms, grouped, row, table};
use crate::{
    config::parse_duration_ms,
    engine::tcp::TcpState,
    proxy::info::{ConnectionInfo, Filter},
};

/// Connections that a listing shows unless asked for another number.
pub const LISTED_DEFAULT: usize = 1000;

/// Connections that a listing shows at most: some 40 MB on the control socket.
pub const LISTED_MAX: usize = 100_000;

/// Which connections, in the words of the command line; every condition that is given has to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
pub struct Selection {
    /// Of this service.
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Of the client with this address, or of all in this prefix, such as 10.0.0.0/8.
    #[arg(long, value_name = "IP[/LEN]")]
    pub client: Option<String>,
    /// To the backend of this name.
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
    /// With the client's or the backend's side in this TCP state, such as CLOSE_WAIT.
    #[arg(long, value_name = "STATE")]
    pub state: Option<String>,
    /// Without a byte for so long, such as 5m.
    #[arg(long, value_name = "DURATION")]
    pub idle: Option<String>,
    /// Accepted so long ago, such as 1h.
    #[arg(long, value_name = "DURATION")]
    pub age: Option<String>,
    /// With this id; an argument of its own on the command line.
    #[arg(skip)]
    pub id: Option<String>,
}

impl Selection {
    /// The filter it stands for.
    ///
    /// # Errors
    /// Says which condition cannot be understood, what was found and what is allowed.
    pub fn filter(&self) -> Result<Filter, String> {
        let client = parsed("--client", self.client.as_deref(), str::parse)?;
        let state = parsed("--state", self.state.as_deref(), state)?;
        let idle_ms_min = parsed("--idle", self.idle.as_deref(), parse_duration_ms)?;
        let age_ms_min = parsed("--age", self.age.as_deref(), parse_duration_ms)?;
        let id = parsed("the id", self.id.as_deref(), str::parse)?;
        Ok(Filter {
            id,
            service: self.service.clone(),
            client,
            backend: self.backend.clone(),
            state,
            idle_ms_min,
            age_ms_min,
        })
    }
}

fn parsed<T, E: std::fmt::Display>(
    what: &str,
    text: Option<&str>,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Option<T>, String> {
    let parsed = text.map(parse).transpose();
    parsed.map_err(|error| format!("{what}: {error}"))
}

fn state(text: &str) -> Result<TcpState, String> {
    TcpState::from_label(text).ok_or_else(|| {
        let labels: Vec<_> = TcpState::ALL.iter().map(|state| state.label()).collect();
        let labels = labels.join(", ");
        format!("found {text:?}, allowed: {labels}")
    })
}

/// What a selection found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// At most as many as were asked for.
    pub rows: Vec<ConnectionInfo>,
    /// How many were selected.
    pub matched: u64,
}

/// The table that `levee connections` prints.
#[must_use]
pub fn render_connections(connections: &Connections) -> String {
    if connections.rows.is_empty() && connections.matched == 0 {
        return "No such connections.\n".into();
    }
    let mut rows = vec![row([
        "ID", "SERVICE", "CLIENT", "STATE", "BACKEND", "STATE", "AGE", "IDLE", "ENDS IN", "IN",
        "OUT",
    ])];
    rows.extend(connections.rows.iter().map(connection));
    let mut text = table(&rows);
    if connections.matched > connections.rows.len() as u64 {
        text += &format!(
            "{} of {} connections; --limit shows more\n",
            grouped(connections.rows.len() as u64),
            grouped(connections.matched)
        );
    }
    text
}

fn connection(info: &ConnectionInfo) -> Vec<String> {
    let client = match info.via {
        Some(via) => format!("{} via {via}", info.client),
        None => info.client.to_string(),
    };
    let address = info.backend_address.map(|address| address.to_string());
    let backend = match (&info.backend, address) {
        (Some(name), Some(address)) if *name != address => format!("{name} {address}"),
        (Some(name), _) => name.clone(),
        (None, address) => address.unwrap_or_else(|| "-".into()),
    };
    vec![
        info.id.clone(),
        info.service.clone(),
        client,
        info.client_state.clone(),
        backend,
        info.backend_state.clone(),
        duration_ms(info.age_ms),
        duration_ms(info.idle_ms),
        info.expires_in_ms.map_or_else(|| "-".into(), duration_ms),
        bytes(info.bytes_from_client),
        bytes(info.bytes_from_backend),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_is_a_filter_in_words() {
        let text = |text: &str| Some(text.to_owned());
        let selection = Selection {
            service: text("web"),
            client: text("10.0.0.0/8"),
            backend: text("a"),
            state: text("CLOSE_WAIT"),
            idle: text("5m"),
            age: text("1h"),
            id: text("0-1f-2a7"),
        };
        let expected = Filter {
            id: Some("0-1f-2a7".parse().unwrap()),
            service: text("web"),
            client: Some("10.0.0.0/8".parse().unwrap()),
            backend: text("a"),
            state: Some(TcpState::CloseWait),
            idle_ms_min: Some(300_000),
            age_ms_min: Some(3_600_000),
        };
        assert_eq!(selection.filter(), Ok(expected));
        assert!(Selection::default().filter().unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_understood_is_named() {
        let mut selection = Selection {
            state: Some("LISTEN".into()),
            ..Selection::default()
        };
        let error = selection.filter().unwrap_err();
        assert!(
            error.starts_with("--state: found \"LISTEN\", allowed: SYN_SENT, "),
            "{error}"
        );
        selection.client = Some("nobody".into());
        let error = selection.filter().unwrap_err();
        assert!(
            error.starts_with("--client: found \"nobody\", allowed: addresses"),
            "{error}"
        );
        let selection = Selection {
            idle: Some("5".into()),
            ..Selection::default()
        };
        let error = selection.filter().unwrap_err();
        assert!(
            error.starts_with("--idle: found \"5\", allowed: a duration"),
            "{error}"
        );
    }

    fn info() -> ConnectionInfo {
        ConnectionInfo {
            id: "0-1f-2a7".into(),
            service: "web".into(),
            client: "192.0.2.7:40000".parse().unwrap(),
            via: None,
            backend: Some("a".into()),
            backend_address: Some("10.0.0.11:80".parse().unwrap()),
            client_state: "CLOSE_WAIT".into(),
            backend_state: "FIN_WAIT_1".into(),
            age_ms: 3_725_000,
            idle_ms: 900,
            expires_in_ms: Some(59_100),
            bytes_from_client: 1023,
            bytes_from_backend: 5 << 20,
        }
    }

    #[test]
    fn the_table_shows_both_sides() {
        let mut waiting = info();
        waiting.id = "1-0-1".into();
        waiting.via = Some("10.0.0.1:5000".parse().unwrap());
        waiting.backend = None;
        waiting.backend_address = None;
        waiting.backend_state = "CLOSED".into();
        waiting.expires_in_ms = None;
        let connections = Connections {
            rows: vec![info(), waiting],
            matched: 1234,
        };
        let expected = "\
ID        SERVICE  CLIENT                             STATE       BACKEND         STATE       AGE        IDLE   ENDS IN  IN      OUT
0-1f-2a7  web      192.0.2.7:40000                    CLOSE_WAIT  a 10.0.0.11:80  FIN_WAIT_1  1 h 2 min  0.9 s  59 s     1023 B  5.0 MiB
1-0-1     web      192.0.2.7:40000 via 10.0.0.1:5000  CLOSE_WAIT  -               CLOSED      1 h 2 min  0.9 s  -        1023 B  5.0 MiB
2 of 1 234 connections; --limit shows more
";
        assert_eq!(render_connections(&connections), expected);
        assert_eq!(
            render_connections(&Connections::default()),
            "No such connections.\n"
        );
    }
}
