//! The configuration file as serde sees it: which keys exist, and where each value stands. What
//! the values may be is judged in `validate`, so that every error reads alike.

use serde::Deserialize;
use toml::{Spanned, Value};

/// A value of any type, with its place in the file.
pub(super) type Field = Option<Spanned<Value>>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) secret_file: Field,
    pub(super) control_socket: Field,
    pub(super) verify_syn_checksum: Field,
    pub(super) metrics: Option<Metrics>,
    #[serde(default)]
    pub(super) interface: Vec<Spanned<Interface>>,
    #[serde(default)]
    pub(super) service: Vec<Spanned<Service>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Metrics {
    pub(super) listen: Field,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Interface {
    pub(super) name: Field,
    pub(super) mode: Field,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Service {
    pub(super) name: Field,
    pub(super) address: Field,
    pub(super) mode: Field,
    pub(super) mss: Field,
    pub(super) window_scale: Field,
    pub(super) window: Field,
}
