//! From the file as serde reads it to a sound [`Config`].

use std::{
    collections::{HashMap, hash_map::Entry},
    net::SocketAddr,
    ops::Range,
    sync::Arc,
};

use toml::Spanned;

use super::{
    CONTROL_SOCKET, Config, ConfigError, HostOptions, INTERFACES_MAX, Interface, METRICS_LISTEN,
    Mode, PROXY_SERVICES_MAX, SECRET_FILE, SERVICES_MAX, SPLICE_SERVICES_MAX, Service, Timeouts,
    error::Problems,
    field::{self, ServiceMode, refusal},
    raw, units,
};
use crate::pins;

mod backends;
mod check;
mod keepalive;
mod limits;
mod proxy;
mod read;
mod splice;

use read::{boolean, integer, missing, place_of, string};

/// Where something stands in the file; `None` for the command line.
type Place = Option<Range<usize>>;

pub(super) fn config(file: &str, text: &str) -> Result<Config, ConfigError> {
    let mut problems = Problems::new(text);
    let raw: raw::File = match toml::from_str(text) {
        Ok(raw) => raw,
        Err(error) => {
            not_understood(&mut problems, text, error);
            return Err(problems.into_error(file));
        }
    };
    let reader = &mut problems;
    let secret_file = string(reader, "secret_file", raw.secret_file, field::path);
    let control_socket = string(
        reader,
        "control_socket",
        raw.control_socket,
        field::socket_path,
    );
    let pin_dir = string(reader, "pin_dir", raw.pin_dir, field::pin_dir);
    let verify = boolean(reader, "verify_syn_checksum", raw.verify_syn_checksum);
    let metrics = raw.metrics.unwrap_or_default().listen;
    let metrics = string(reader, "metrics.listen", metrics, field::metrics_listen)
        .unwrap_or_else(|| METRICS_LISTEN.parse().ok());
    let listed = raw.interface.into_iter();
    let listed = listed.filter_map(|raw| interface(reader, raw)).collect();
    let interfaces = interfaces(reader, "interface.name", listed);
    let globals = proxy::globals(reader, raw.proxy);
    let splice = splice::globals(reader, raw.splice);
    let mut backends = Vec::new();
    let listed = raw.service.into_iter();
    let listed = listed.filter_map(|raw| service(reader, raw, &mut backends));
    let listed = listed.collect();
    let services = services(reader, "service.address", listed);
    pooled(reader, &services, backends);
    problems.finish(file)?;
    let control_socket = control_socket.unwrap_or_else(|| CONTROL_SOCKET.into());
    let own_pin_dir = || Some(pins::default_directory(&control_socket));
    Ok(Config {
        secret_file: secret_file.unwrap_or_else(|| SECRET_FILE.into()),
        pin_dir: pin_dir.unwrap_or_else(own_pin_dir),
        control_socket,
        verify_syn_checksum: verify.unwrap_or(true),
        metrics_listen: metrics,
        interfaces,
        proxy: globals,
        splice,
        services,
    })
}

/// Adds what is wrong with a file that serde cannot read.
fn not_understood(problems: &mut Problems<'_>, text: &str, mut error: toml::de::Error) {
    let span = error.span();
    // Without the text, an error shows the keys that lead to it.
    error.set_input(None);
    let shown = error.to_string();
    let keys = shown.lines().find_map(|line| line.strip_prefix("in `"));
    let key = keys.and_then(|keys| keys.strip_suffix('`')).unwrap_or("");
    let mut message = field::printable(&error.message().replace('\n', ", "));
    let culprit = span.clone().and_then(|span| text.get(span));
    // What serde refuses, it quotes; the parser does not.
    if key.is_empty()
        && !message.contains('`')
        && let Some(culprit) = culprit
    {
        message += &format!(": {}", field::quoted(culprit));
    }
    problems.add(span, &field::printable(key), message);
}

/// A service with nothing overridden, named after its address.
pub(super) fn plain_service(address: SocketAddr) -> Service {
    Service {
        name: address.to_string(),
        address,
        mss: None,
        window_scale: None,
        window: None,
        mode: Mode::Host(HostOptions::default()),
    }
}

/// Checks the number of interfaces and that none is named twice.
pub(super) fn interfaces(
    problems: &mut Problems<'_>,
    key: &str,
    listed: Vec<(Place, Interface)>,
) -> Vec<Interface> {
    count(problems, key, "interfaces", listed.len(), INTERFACES_MAX);
    let mut seen = HashMap::new();
    for (place, interface) in &listed {
        unique(problems, &mut seen, key, &interface.name, place);
    }
    listed.into_iter().map(|(_, interface)| interface).collect()
}

/// Checks the number of services and that no address and no name is given twice.
pub(super) fn services(
    problems: &mut Problems<'_>,
    key: &str,
    listed: Vec<(Place, Service)>,
) -> Vec<Service> {
    count(problems, key, "services", listed.len(), SERVICES_MAX);
    let mut addresses = HashMap::new();
    let mut names = HashMap::new();
    for (place, service) in &listed {
        let address = service.address.to_string();
        if unique(problems, &mut addresses, key, &address, place) {
            unique(problems, &mut names, "service.name", &service.name, place);
        }
    }
    listed.into_iter().map(|(_, service)| service).collect()
}

/// Checks what services with backends have in common. `backends` are those of all of them.
fn pooled(problems: &mut Problems<'_>, services: &[Service], backends: backends::AllAddresses) {
    let modes = [
        (ServiceMode::Proxy, PROXY_SERVICES_MAX),
        (ServiceMode::Splice, SPLICE_SERVICES_MAX),
    ];
    for (mode, max) in modes {
        let of_mode = |service: &&Service| match service.mode {
            Mode::Host(_) => mode == ServiceMode::Host,
            Mode::Proxy(_) => mode == ServiceMode::Proxy,
            Mode::Splice(_) => mode == ServiceMode::Splice,
        };
        let found = services.iter().filter(of_mode).count();
        if found > max {
            let found = format!("{found} services with mode = \"{}\"", mode.label());
            let message = refusal(found, &format!("at most {max}"));
            problems.add(None, "service.mode", message);
        }
    }
    splice::targets(problems, services);
    backends::refuse_loops(problems, backends, services);
}

/// One that was refused is on the list of problems already: that none is left is no news then.
fn count(problems: &mut Problems<'_>, key: &str, what: &str, found: usize, max: usize) {
    let none_given = found == 0 && !problems.concern(key);
    if none_given || found > max {
        let message = refusal(format_args!("{found} {what}"), &format!("1 to {max}"));
        problems.add(None, key, message);
    }
}

fn unique(
    problems: &mut Problems<'_>,
    seen: &mut HashMap<String, Place>,
    key: &str,
    value: &str,
    place: &Place,
) -> bool {
    let first = match seen.entry(value.into()) {
        Entry::Vacant(entry) => {
            entry.insert(place.clone());
            return true;
        }
        Entry::Occupied(entry) => entry.get().clone(),
    };
    let first = first.and_then(|span| problems.line(span.start));
    let where_first = first.map_or_else(String::new, |line| format!(" (first on line {line})"));
    let message = refusal(
        format_args!("{} a second time{where_first}", field::quoted(value)),
        "each value once",
    );
    problems.add(place.clone(), key, message);
    false
}

fn interface(
    problems: &mut Problems<'_>,
    raw: Spanned<raw::Interface>,
) -> Option<(Place, Interface)> {
    let table = raw.span();
    let raw = raw.into_inner();
    let place = place_of(&raw.name);
    let attach = string(problems, "interface.mode", raw.mode, field::attach);
    if raw.name.is_none() {
        missing(
            problems,
            table,
            "interface.name",
            "an interface name, such as \"eth0\"",
        );
    }
    let name = string(problems, "interface.name", raw.name, field::interface_name)?;
    let attach = attach.unwrap_or_default();
    Some((place, Interface { name, attach }))
}

/// A service; the addresses of its backends are added to `backends`.
fn service(
    problems: &mut Problems<'_>,
    raw: Spanned<raw::Service>,
    backends: &mut backends::AllAddresses,
) -> Option<(Place, Service)> {
    let table = raw.span();
    let mut raw = raw.into_inner();
    let place = place_of(&raw.address);
    let name = raw.name.take();
    let name = string(problems, "service.name", name, field::service_name);
    if raw.address.is_none() {
        let allowed = "ADDRESS:PORT, such as \"192.0.2.10:443\"";
        missing(problems, table.clone(), "service.address", allowed);
    }
    let address = raw.address.take();
    let address = string(problems, "service.address", address, field::service_address);
    let range = field::mss_range(address);
    let mss = integer(problems, "service.mss", raw.mss.take(), range);
    let range = field::WINDOW_SCALE_RANGE;
    let window_scale = raw.window_scale.take();
    let window_scale = integer(problems, "service.window_scale", window_scale, range);
    let range = field::WINDOW_RANGE;
    let window = integer(problems, "service.window", raw.window.clone(), range);
    let mode = mode(problems, raw, address, &table, backends);
    let mut service = plain_service(address?);
    service.mode = mode;
    service.mss = mss;
    service.window_scale = window_scale;
    service.window = window;
    if let Some(name) = name {
        service.name = name;
    }
    Some((place, service))
}

/// What a service has for its mode; keys of other modes are refused.
fn mode(
    problems: &mut Problems<'_>,
    mut raw: raw::Service,
    address: Option<SocketAddr>,
    table: &Range<usize>,
    backends: &mut backends::AllAddresses,
) -> Mode {
    let given = raw.mode.take();
    let mode = match given {
        None => ServiceMode::Host,
        given => match string(problems, "service.mode", given, field::service_mode) {
            Some(mode) => mode,
            // Which keys there may be is not known.
            None => return Mode::Host(HostOptions::default()),
        },
    };
    for (key, span, of) in raw.mode_keys() {
        if !of.contains(&mode) {
            foreign(problems, span, key, mode, of);
        }
    }
    match mode {
        ServiceMode::Host => {
            let key = "service.reap_close_wait";
            let reap = string(problems, key, raw.reap_close_wait, |text| {
                units::duration_or_off(text, &proxy::REAP_RANGE)
            });
            Mode::Host(HostOptions {
                reap_close_wait: reap.flatten(),
            })
        }
        ServiceMode::Proxy => {
            let (service, addresses) =
                proxy::service(problems, raw, address, table, Timeouts::default());
            backends.extend(addresses.into_iter().map(|(p, a)| (p, a, mode)));
            Mode::Proxy(Arc::new(service))
        }
        ServiceMode::Splice => {
            let (service, addresses) = splice::service(problems, raw, address, table);
            backends.extend(addresses.into_iter().map(|(p, a)| (p, a, mode)));
            Mode::Splice(Arc::new(service))
        }
    }
}

fn foreign(
    problems: &mut Problems<'_>,
    span: Range<usize>,
    key: &str,
    mode: ServiceMode,
    of: &[ServiceMode],
) {
    let found = format!("it in a service with mode = \"{}\"", mode.label());
    let of: Vec<_> = of.iter().map(|of| format!("\"{}\"", of.label())).collect();
    let message = refusal(found, &format!("only with mode = {}", of.join(" or ")));
    problems.add(Some(span), key, message);
}

#[cfg(test)]
mod tests;
