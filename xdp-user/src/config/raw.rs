//! The configuration file as serde sees it: which keys exist, and where each value stands. What
//! the values may be is judged in `validate`, so that every error reads alike.

use std::{fmt, marker::PhantomData, ops::Range};

use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};
use toml::{Spanned, Value};

use super::field::ServiceMode;

/// A value of any type, with its place in the file.
pub(super) type Field = Option<Spanned<Value>>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) secret_file: Field,
    pub(super) control_socket: Field,
    pub(super) pin_dir: Field,
    pub(super) verify_syn_checksum: Field,
    pub(super) metrics: Option<Metrics>,
    pub(super) proxy: Option<Proxy>,
    pub(super) splice: Option<Splice>,
    #[serde(default, deserialize_with = "sections")]
    pub(super) interface: Vec<Spanned<Interface>>,
    #[serde(default, deserialize_with = "sections")]
    pub(super) service: Vec<Spanned<Service>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section, [metrics]")]
pub(super) struct Metrics {
    pub(super) listen: Field,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section, [[interface]]")]
pub(super) struct Interface {
    pub(super) name: Field,
    pub(super) mode: Field,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section, [proxy]")]
pub(super) struct Proxy {
    pub(super) workers: Field,
    pub(super) connections_max: Field,
    pub(super) pipes_max: Field,
    pub(super) buffer_max: Field,
    pub(super) drain_timeout: Field,
    pub(super) dns_server: Field,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section, [splice]")]
pub(super) struct Splice {
    pub(super) flows_max: Field,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section, [[service]]")]
pub(super) struct Service {
    pub(super) name: Field,
    pub(super) address: Field,
    pub(super) mode: Field,
    pub(super) mss: Field,
    pub(super) window_scale: Field,
    pub(super) window: Field,
    pub(super) reap_close_wait: Field,
    pub(super) balance: Field,
    pub(super) connect_timeout: Field,
    pub(super) retries: Field,
    pub(super) first_byte_timeout: Field,
    pub(super) idle_timeout: Field,
    pub(super) close_wait_timeout: Field,
    pub(super) fin_wait_timeout: Field,
    pub(super) header_timeout: Field,
    pub(super) last_ack_timeout: Field,
    pub(super) time_wait_timeout: Field,
    pub(super) half_open_max: Field,
    pub(super) connections_max: Field,
    pub(super) connections_per_client_max: Field,
    pub(super) connections_per_prefix_max: Field,
    pub(super) new_connections_per_client: Field,
    pub(super) new_connections_burst: Field,
    pub(super) send_proxy: Field,
    pub(super) accept_proxy: Field,
    pub(super) accept_proxy_required: Field,
    pub(super) transparent: Field,
    pub(super) source: Field,
    pub(super) client_keepalive: Field,
    pub(super) backend_keepalive: Field,
    pub(super) slow_start: Field,
    pub(super) nat: Field,
    pub(super) nat_pool: Field,
    pub(super) check: Option<Spanned<Check>>,
    pub(super) ejection: Option<Spanned<Ejection>>,
    #[serde(default, deserialize_with = "sections")]
    pub(super) backend: Vec<Spanned<Backend>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section, [service.check]")]
pub(super) struct Check {
    #[serde(rename = "type")]
    pub(super) kind: Field,
    pub(super) path: Field,
    pub(super) host: Field,
    pub(super) status: Field,
    pub(super) server_name: Field,
    pub(super) verify: Field,
    pub(super) ca_file: Field,
    pub(super) interval: Field,
    pub(super) timeout: Field,
    pub(super) rise: Field,
    pub(super) fall: Field,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section, [service.ejection]")]
pub(super) struct Ejection {
    pub(super) failures: Field,
    pub(super) duration: Field,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section, [[service.backend]]")]
pub(super) struct Backend {
    pub(super) address: Field,
    pub(super) name: Field,
    pub(super) weight: Field,
    pub(super) connections_max: Field,
}

/// A key of a service that is there, where it stands, and the modes that have it.
pub(super) type ModeKey = (&'static str, Range<usize>, &'static [ServiceMode]);

impl Service {
    /// The keys that are there and that not every mode has.
    pub(super) fn mode_keys(&self) -> Vec<ModeKey> {
        use ServiceMode::{Host, Proxy, Splice};
        let mut found: Vec<ModeKey> = Vec::new();
        macro_rules! of {
            ($modes:expr; $($key:ident)*) => {
                $(found.extend(self.$key.as_ref().map(|field| {
                    (concat!("service.", stringify!($key)), field.span(), &$modes[..])
                }));)*
            };
        }
        of!(&[Host]; reap_close_wait);
        of!(&[Host, Proxy]; window);
        of!(&[Proxy, Splice];
            balance connect_timeout retries idle_timeout close_wait_timeout fin_wait_timeout
            half_open_max connections_max slow_start check ejection
        );
        of!(&[Proxy];
            first_byte_timeout header_timeout connections_per_client_max
            connections_per_prefix_max new_connections_per_client new_connections_burst send_proxy
            accept_proxy accept_proxy_required transparent source client_keepalive
            backend_keepalive
        );
        of!(&[Splice]; nat nat_pool last_ack_timeout time_wait_timeout);
        let backend = self.backend.first().map(Spanned::span);
        found.extend(backend.map(|span| ("service.backend", span, &[Proxy, Splice][..])));
        found
    }
}

/// Sections of which there may be several; says so where one is written like the only one.
fn sections<'de, D, T>(deserializer: D) -> Result<Vec<Spanned<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Sections<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Sections<T> {
        type Value = Vec<Spanned<T>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(
                "sections in double brackets, [[interface]], [[service]] or [[service.backend]]",
            )
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut sections = Vec::new();
            while let Some(section) = items.next_element()? {
                sections.push(section);
            }
            Ok(sections)
        }
    }

    deserializer.deserialize_seq(Sections(PhantomData))
}
