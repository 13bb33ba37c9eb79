//! Connections as operators see and select them.

use std::{fmt, net::SocketAddr, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{config::Prefix, engine::tcp::TcpState};

/// Names one connection; never given twice while levee runs, practically.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    /// The worker's number.
    pub worker: u16,
    /// The connection's slot at its worker.
    pub slot: u32,
    /// Grows each time the worker takes a new connection.
    pub serial: u32,
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}-{:x}", self.worker, self.slot, self.serial)
    }
}

/// A text that is no [`ConnectionId`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAnId(String);

impl fmt::Display for NotAnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "found \"{}\", allowed: an id as `levee connections` shows it, such as 0-1f-2a7",
            self.0
        )
    }
}

impl std::error::Error for NotAnId {}

impl FromStr for ConnectionId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let parse = || {
            let mut parts = text.split('-');
            let id = Self {
                worker: u16::from_str_radix(parts.next()?, 16).ok()?,
                slot: u32::from_str_radix(parts.next()?, 16).ok()?,
                serial: u32::from_str_radix(parts.next()?, 16).ok()?,
            };
            parts.next().is_none().then_some(id)
        };
        parse().ok_or_else(|| NotAnId(text.into()))
    }
}

/// One proxied connection, as `levee connections` lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionInfo {
    /// [`ConnectionId`] as text.
    pub id: String,
    /// The service's name.
    pub service: String,
    /// Who the client is: from the PROXY header where one was accepted.
    pub client: SocketAddr,
    /// The upstream that sent the PROXY header.
    pub via: Option<SocketAddr>,
    /// The backend's name, once one is chosen.
    pub backend: Option<String>,
    /// The backend's address.
    pub backend_address: Option<SocketAddr>,
    /// State of the client's leg, by its RFC 9293 name.
    pub client_state: String,
    /// State of the backend's leg.
    pub backend_state: String,
    /// Since it was accepted, milliseconds.
    pub age_ms: u64,
    /// Since a byte moved, milliseconds.
    pub idle_ms: u64,
    /// Until levee ends it unless something happens, milliseconds; `None` for never.
    pub expires_in_ms: Option<u64>,
    /// Bytes from the client passed on.
    pub bytes_from_client: u64,
    /// Bytes from the backend passed on.
    pub bytes_from_backend: u64,
}

/// Selects connections; every condition that is set has to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// This one.
    pub id: Option<ConnectionId>,
    /// Of this service.
    pub service: Option<String>,
    /// From these addresses.
    pub client: Option<Prefix>,
    /// To this backend.
    pub backend: Option<String>,
    /// With one of its legs in this state.
    pub state: Option<TcpState>,
    /// Without a byte for as long, milliseconds.
    pub idle_ms_min: Option<u64>,
    /// Accepted as long ago, milliseconds.
    pub age_ms_min: Option<u64>,
}

impl Filter {
    /// Whether it selects every connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a filter selected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// At most as many as were asked for.
    pub rows: Vec<ConnectionInfo>,
    /// How many the filter selected.
    pub matched: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let id = ConnectionId {
            worker: 1,
            slot: 0x1f,
            serial: u32::MAX,
        };
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "1", "1-2", "1-2-3-4", "x-1-2", "1-2-", "10000-1-1"] {
            assert!(text.parse::<ConnectionId>().is_err(), "{text}");
        }
    }
}
