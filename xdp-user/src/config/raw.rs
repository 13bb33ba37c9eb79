//! The configuration file as serde sees it: which keys exist, and where each value stands. What
//! the values may be is judged in `validate`, so that every error reads alike.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section, [[service]]")]
pub(super) struct Service {
    pub(super) name: Field,
    pub(super) address: Field,
    pub(super) mode: Field,
    pub(super) mss: Field,
    pub(super) window_scale: Field,
    pub(super) window: Field,
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
            f.write_str("sections in double brackets, [[interface]] or [[service]]")
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
