//! The values a configuration may hold, each with the words for what is allowed. Used for the file
//! and for the command line.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf, absolute},
};

use super::{Attach, SERVICE_NAME_LEN_MAX};

/// Longest interface name, bytes: `IFNAMSIZ` less the terminating zero.
const INTERFACE_NAME_LEN_MAX: usize = 15;

/// Longest path of a Unix socket, bytes: `sun_path` less the terminating zero.
const SOCKET_PATH_LEN_MAX: usize = 107;

/// What switches something off that otherwise has a value.
const OFF: &str = "off";

/// Characters of a refused value that are shown.
const FOUND_LEN_MAX: usize = 100;

const ADDRESS_ALLOWED: &str =
    "ADDRESS:PORT of the service, such as \"192.0.2.10:443\" or \"[2001:db8::10]:443\"";

/// The result of judging one value: itself, or what was found and what is allowed.
pub(super) type Judged<T> = Result<T, String>;

/// "found X, allowed: Y".
pub(super) fn refusal(found: impl std::fmt::Display, allowed: &str) -> String {
    format!("found {found}, allowed: {allowed}")
}

/// A value as it is shown to the operator: in quotes, without what a terminal would act on, and
/// cut where it is too long to be looked at.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(FOUND_LEN_MAX) {
        Some((end, _)) => format!("{:?}... ({} bytes)", &text[..end], text.len()),
        None => format!("{text:?}"),
    }
}

/// As [`quoted`], without the quotes: for text that quotes by itself.
pub(super) fn printable(text: &str) -> String {
    const LEN_MAX: usize = 1000;
    let escape = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    let mut shown: String = text.chars().take(LEN_MAX).map(escape).collect();
    if text.chars().nth(LEN_MAX).is_some() {
        shown += "...";
    }
    shown
}

/// Address and port of a service.
pub(super) fn service_address(text: &str) -> Judged<SocketAddr> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| refusal(quoted(text), ADDRESS_ALLOWED))?;
    let objection = match address.ip() {
        ip if ip.is_unspecified() => {
            "an unspecified address; name each address that clients connect to"
        }
        ip if ip.is_multicast() => "a multicast address; TCP has none",
        ip if ip.is_loopback() => "a loopback address; levee protects what arrives at an interface",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address; TCP has none",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            "an IPv4-mapped address; write it as IPv4"
        }
        _ if has_zone(address) => {
            "an address with a zone; write it without, it is protected on every interface"
        }
        _ if address.port() == 0 => "port 0; a service has a port from 1 to 65535",
        _ => return Ok(address),
    };
    Err(refusal(
        format_args!("{}, {objection}", quoted(text)),
        ADDRESS_ALLOWED,
    ))
}

fn has_zone(address: SocketAddr) -> bool {
    matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0)
}

/// Where the metrics server listens; `None` for "off".
pub(super) fn metrics_listen(text: &str) -> Judged<Option<SocketAddr>> {
    if text == OFF {
        return Ok(None);
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(Some(address)),
        _ => Err(refusal(
            quoted(text),
            "\"off\", or ADDRESS:PORT to listen on, such as \"127.0.0.1:9977\"",
        )),
    }
}

/// The name of an interface, by the kernel's rules (`dev_valid_name`), but without control
/// characters, which it allows.
pub(super) fn interface_name(text: &str) -> Judged<String> {
    let valid = (1..=INTERFACE_NAME_LEN_MAX).contains(&text.len())
        && !matches!(text, "." | "..")
        && !text
            .chars()
            .any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
    if valid {
        return Ok(text.into());
    }
    Err(refusal(
        quoted(text),
        "an interface name as `ip link` shows it, 1 to 15 bytes, such as \"eth0\"",
    ))
}

/// How to attach to an interface.
pub(super) fn attach(text: &str) -> Judged<Attach> {
    [Attach::Auto, Attach::Native, Attach::Generic]
        .into_iter()
        .find(|attach| attach.label() == text)
        .ok_or_else(|| refusal(quoted(text), "\"auto\", \"native\" or \"generic\""))
}

/// The mode of a service, as far as it decides which keys there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServiceMode {
    Host,
    Proxy,
    Splice,
}

impl ServiceMode {
    /// The word for it in the configuration.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Proxy => "proxy",
            Self::Splice => "splice",
        }
    }
}

/// The mode of a service.
pub(super) fn service_mode(text: &str) -> Judged<ServiceMode> {
    [ServiceMode::Host, ServiceMode::Proxy, ServiceMode::Splice]
        .into_iter()
        .find(|mode| mode.label() == text)
        .ok_or_else(|| {
            refusal(
                quoted(text),
                "\"host\", for a server on this machine, or, for servers elsewhere, \"proxy\" or \
                 \"splice\"",
            )
        })
}

/// The name of a service.
pub(super) fn service_name(text: &str) -> Judged<String> {
    let printable = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    if (1..=SERVICE_NAME_LEN_MAX).contains(&text.len()) && text.bytes().all(printable) {
        return Ok(text.into());
    }
    Err(refusal(
        quoted(text),
        "1 to 64 printable ASCII characters without space, quote and backslash",
    ))
}

/// A file's path.
pub(super) fn path(text: &str) -> Judged<PathBuf> {
    let path = PathBuf::from(text);
    judge_path(&path)?;
    Ok(path)
}

/// The path of a Unix socket.
pub(super) fn socket_path(text: &str) -> Judged<PathBuf> {
    let path = PathBuf::from(text);
    judge_socket_path(&path)?;
    Ok(path)
}

/// As [`path`], for what need not be UTF-8.
pub(super) fn judge_path(path: &Path) -> Judged<()> {
    let bytes = path.as_os_str().as_encoded_bytes();
    let names_file = path.file_name().is_some() && !bytes.ends_with(b"/") && !bytes.contains(&0);
    if path.is_absolute() && names_file {
        return Ok(());
    }
    Err(refusal(found(path), "the absolute path of a file"))
}

/// As [`socket_path`], for what need not be UTF-8.
pub(super) fn judge_socket_path(path: &Path) -> Judged<()> {
    judge_path(path)?;
    if path.as_os_str().len() <= SOCKET_PATH_LEN_MAX {
        return Ok(());
    }
    Err(refusal(
        found(path),
        &format!("a path of at most {SOCKET_PATH_LEN_MAX} bytes, as for every Unix socket"),
    ))
}

/// A path on the command line, where it may be relative, judged by one of those above.
pub(super) fn typed_path(
    typed: Option<PathBuf>,
    default: &str,
    judge: fn(&Path) -> Judged<()>,
) -> Judged<PathBuf> {
    let typed = typed.unwrap_or_else(|| default.into());
    // Fails for an empty path, which the judge refuses as well.
    let path = absolute(&typed).unwrap_or(typed);
    judge(&path)?;
    Ok(path)
}

/// The directory of pins; `None` for "off". A BPF file system has no names with dots.
pub(super) fn pin_dir(text: &str) -> Judged<Option<PathBuf>> {
    judge_pin_dir(text.into())
}

/// As [`pin_dir`], on the command line, where the path may be relative.
pub(super) fn typed_pin_dir(typed: PathBuf) -> Judged<Option<PathBuf>> {
    if typed == Path::new(OFF) {
        return Ok(None);
    }
    judge_pin_dir(absolute(&typed).unwrap_or(typed))
}

fn judge_pin_dir(path: PathBuf) -> Judged<Option<PathBuf>> {
    if path == Path::new(OFF) {
        return Ok(None);
    }
    let has_dot = path.as_os_str().as_encoded_bytes().contains(&b'.');
    if judge_path(&path).is_ok() && !has_dot {
        return Ok(Some(path));
    }
    Err(refusal(
        found(&path),
        "\"off\", or the absolute path of a directory on a BPF file system, without dots, such as \
         \"/sys/fs/bpf/levee/eth0\"",
    ))
}

fn found(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// MSS values that make sense for a service at `address`: from what every host takes (RFC 9293
/// 3.7.1, RFC 8200 5) to what the largest packet holds.
pub(super) fn mss_range(address: Option<SocketAddr>) -> RangeInclusive<i64> {
    match address {
        Some(SocketAddr::V6(_)) => 1220..=65475,
        _ => 536..=65495,
    }
}

/// Windows that a SYN-ACK may carry: it is never scaled (RFC 7323 2.2), and a smaller one would
/// stall even the first segments.
pub(super) const WINDOW_RANGE: RangeInclusive<i64> = 2048..=65535;

/// RFC 7323 2.3.
pub(super) const WINDOW_SCALE_RANGE: RangeInclusive<i64> = 0..=14;
