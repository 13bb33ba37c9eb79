//! The control socket: how `levee status` and `levee reload` talk to a running levee.
//!
//! A Unix stream socket that only its owner may connect to. The client sends one line with a JSON
//! [`Request`] and gets one line with a JSON [`Response`].

use serde::{Deserialize, Serialize};

mod client;
mod connections;
mod server;
mod status;
mod table;

pub use client::{answers, request, request_within};
pub use connections::{Connections, LISTED_DEFAULT, LISTED_MAX, Selection, render_connections};
pub(crate) use server::CLIENTS_MAX;
pub use server::{Command, ControlSocket, Door, serve};
pub use status::Status;
pub use table::render;

/// Length of a response line, bytes: a status with all services and interfaces takes
/// about a megabyte, the longest listing of connections some forty.
const LINE_LEN_MAX: u64 = 64 << 20;

/// Length of a request line, bytes: the longest names and conditions take some 700.
const REQUEST_LEN_MAX: u64 = 1024;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The state and all counters.
    Status,
    /// Reads the configuration file again.
    Reload,
    /// Starts the program once more, as it is installed now, to take over.
    Upgrade,
    /// Leaves the data path to whoever asks.
    Leave,
    /// Lists connections of the proxy.
    Connections {
        /// Which.
        selection: Selection,
        /// How many at most, up to [`LISTED_MAX`].
        limit: usize,
    },
    /// Ends connections of the proxy, with a RST to both sides.
    Kill {
        /// Which. One without any condition is refused.
        selection: Selection,
        /// All of them; then there are no conditions.
        all: bool,
    },
}

/// What levee answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Reload`], when it succeeded.
    Reloaded(Reloaded),
    /// To [`Request::Upgrade`], when this levee has left: the process id of the other.
    Upgraded(u32),
    /// To [`Request::Leave`]: the data path is the other's to control.
    Left,
    /// To [`Request::Connections`].
    Connections(Connections),
    /// To [`Request::Kill`]: how many were ended.
    Killed(u64),
    /// What went wrong.
    Error(String),
}

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Services that are protected now.
    pub services: usize,
    /// Names of those that were not before.
    pub added: Vec<String>,
    /// Names of those that no longer are.
    pub removed: Vec<String>,
    /// Settings that differ from those in force and need a restart.
    pub needs_restart: Vec<String>,
}

#[cfg(test)]
mod tests;
