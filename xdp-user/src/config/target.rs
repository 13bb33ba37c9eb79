//! Addresses, names and words in the configuration of `proxy` mode.

use std::net::{IpAddr, SocketAddr};

use super::{
    Balance, Prefix, ProxyVersion, Target,
    field::{Judged, quoted, refusal},
};

/// What a backend's address may be.
pub(super) const BACKEND_ALLOWED: &str = "ADDRESS:PORT or NAME:PORT of a server, such as \
     \"10.0.0.11:8443\", \"[2001:db8::11]:8443\" or \"app.internal:8443\"";

const NAME_LEN_MAX: usize = 253;

const HTTP_PATH_LEN_MAX: usize = 1024;

/// Where a backend is.
pub(super) fn backend(text: &str) -> Judged<Target> {
    let no =
        |objection: &str| refusal(format_args!("{}{objection}", quoted(text)), BACKEND_ALLOWED);
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match unusable(address.ip()) {
            Some(objection) => Err(no(objection)),
            None if lacks_zone(address) => Err(no(
                ", a link-local address without a zone; write it with the number of its interface \
                 (`ip link`), such as \"[fe80::1%2]:80\"",
            )),
            None if address.port() == 0 => Err(no(", port 0")),
            None => Ok(Target::Address(address)),
        };
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(|| no(""))?;
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|port| digits && *port != 0);
    match port {
        Some(port) if is_host_name(host) => Ok(Target::Name {
            host: host.to_ascii_lowercase(),
            port,
        }),
        _ => Err(no("")),
    }
}

/// Whether it is a link-local address that does not tell on which link (RFC 4007 6).
const fn lacks_zone(address: SocketAddr) -> bool {
    match address {
        SocketAddr::V6(v6) => v6.ip().is_unicast_link_local() && v6.scope_id() == 0,
        SocketAddr::V4(_) => false,
    }
}

/// Why nothing can be reached at an address, or nothing can be sent from it.
pub(crate) fn unusable(ip: IpAddr) -> Option<&'static str> {
    match ip {
        _ if ip.is_unspecified() => Some(", an unspecified address"),
        _ if ip.is_multicast() => Some(", a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some(", the broadcast address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Some(", an IPv4-mapped address; write it as IPv4")
        }
        _ => None,
    }
}

/// Whether it is a name that may stand in DNS or in the hosts file. The last label is no number
/// (RFC 3696 2), so that no mistyped address passes for a name.
fn is_host_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= NAME_LEN_MAX
        && name.split('.').all(label)
        && last.bytes().any(|byte| !byte.is_ascii_digit())
}

/// A DNS server.
pub(super) fn dns_server(text: &str) -> Judged<SocketAddr> {
    let address = text.parse::<SocketAddr>().ok();
    let address = address.filter(|a| a.port() != 0 && unusable(a.ip()).is_none());
    address.ok_or_else(|| {
        refusal(
            quoted(text),
            "ADDRESS:PORT of a DNS server, such as \"127.0.0.1:53\"",
        )
    })
}

/// A local address to connect to backends from.
pub(super) fn source(text: &str) -> Judged<IpAddr> {
    let address = text.parse::<IpAddr>().ok();
    let address = address.filter(|ip| unusable(*ip).is_none());
    address.ok_or_else(|| {
        refusal(
            quoted(text),
            "addresses of this machine, such as \"10.0.0.5\" or \"2001:db8::5\"",
        )
    })
}

/// Addresses of upstreams.
pub(super) fn prefix(text: &str) -> Judged<Prefix> {
    text.parse()
}

/// How a backend is chosen.
pub(super) fn balance(text: &str) -> Judged<Balance> {
    match text {
        "round_robin" => Ok(Balance::RoundRobin),
        "least_connections" => Ok(Balance::LeastConnections),
        "client_hash" => Ok(Balance::ClientHash),
        _ => Err(refusal(
            quoted(text),
            "\"round_robin\", \"least_connections\" or \"client_hash\"",
        )),
    }
}

/// Whether packets to backends come from addresses of levee's, and not from the clients'.
pub(super) fn nat_is_full(text: &str) -> Judged<bool> {
    match text {
        "dnat" => Ok(false),
        "full" => Ok(true),
        _ => Err(refusal(quoted(text), "\"dnat\" or \"full\"")),
    }
}

/// Version of the PROXY header for backends; `None` for "off".
pub(super) fn send_proxy(text: &str) -> Judged<Option<ProxyVersion>> {
    match text {
        "off" => Ok(None),
        "v1" => Ok(Some(ProxyVersion::V1)),
        "v2" => Ok(Some(ProxyVersion::V2)),
        _ => Err(refusal(quoted(text), "\"off\", \"v1\" or \"v2\"")),
    }
}

/// The path of an HTTP check, with a query if there is one (RFC 9112 3.2.1).
pub(super) fn http_path(text: &str) -> Judged<String> {
    // RFC 3986 3.3, 3.4 and 2: whatever else there is has to be percent-encoded.
    let stands_for_itself =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/?".contains(&byte);
    if text.starts_with('/')
        && text.len() <= HTTP_PATH_LEN_MAX
        && text.bytes().all(stands_for_itself)
    {
        return Ok(text.into());
    }
    Err(refusal(
        quoted(text),
        "a path that begins with /, at most 1024 bytes, in which spaces and the like are written \
         as %20, such as \"/health\"",
    ))
}

/// The Host header of an HTTP check (RFC 9110 7.2).
pub(super) fn http_host(text: &str) -> Judged<String> {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, port),
        _ => (text, "80"),
    };
    let literal = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    let address = literal.map_or_else(
        || name.parse::<std::net::Ipv4Addr>().is_ok(),
        |name| name.parse::<std::net::Ipv6Addr>().is_ok(),
    );
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    if digits && port.parse::<u16>().is_ok() && (address || is_host_name(name)) {
        return Ok(text.into());
    }
    Err(refusal(
        quoted(text),
        "the name of a host, with a port if it is another than 80, such as \"www.example.org\"",
    ))
}

/// The name that a TLS check asks for.
pub(super) fn server_name(text: &str) -> Judged<String> {
    if text.parse::<IpAddr>().is_ok() || is_host_name(text) {
        return Ok(text.into());
    }
    Err(refusal(
        quoted(text),
        "the name of a host, such as \"www.example.org\"",
    ))
}
