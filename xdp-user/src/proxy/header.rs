//! The PROXY protocol, versions 1 and 2, in both directions: who the client is.

use std::net::{IpAddr, SocketAddr};

use proxy_header::{Error, ParseConfig, Protocol, ProxiedAddress, ProxyHeader};

use crate::{
    config::{ProxyService, ProxyVersion},
    engine::reason::Refusal,
};

/// The longest header that is taken, bytes. Version 1 has 107 at most; version 2 could have 64 KiB
/// of extensions, which nobody sends.
pub(super) const HEADER_MAX: usize = 4_096;

/// What a header of version 2 begins with (section 2.2).
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2, and the upstream speaks for itself.
const V2_LOCAL: u8 = 0x20;

/// What the first bytes from an upstream are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// The beginning of a header.
    Incomplete,
    /// A header of so many bytes, and the client it tells of; none when the upstream speaks for
    /// itself, as in its health checks.
    Complete {
        len: usize,
        client: Option<SocketAddr>,
    },
    /// No header that is allowed here.
    Invalid,
}

/// Whether a client at this address has to send a header first.
///
/// # Errors
/// Fails when only upstreams may connect, and it is none.
pub(super) fn is_expected(config: &ProxyService, address: IpAddr) -> Result<bool, Refusal> {
    let trusted = config
        .accept_proxy
        .iter()
        .any(|prefix| prefix.contains(address));
    let refused = !trusted && !config.accept_proxy.is_empty() && config.accept_proxy_required;
    if refused {
        return Err(Refusal::UntrustedHeader);
    }
    Ok(trusted)
}

/// Reads a header at the start of `bytes`, which are at most [`HEADER_MAX`].
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let config = ParseConfig {
        include_tlvs: false,
        ..ParseConfig::default()
    };
    let v2 = v2_announced(bytes);
    let len_max = match v2 {
        Some((_, len)) if len > HEADER_MAX => return Parsed::Invalid,
        // Section 2.2: whatever stands where addresses would be, and says of which family, is
        // skipped.
        Some((V2_LOCAL, len)) if len <= bytes.len() => {
            return Parsed::Complete { len, client: None };
        }
        Some((_, len)) => len,
        None => HEADER_MAX,
    };
    match ProxyHeader::parse(bytes, config) {
        Ok((header, len)) => match header.proxied_address() {
            // A datagram's client is none of TCP's.
            Some(address) if address.protocol != Protocol::Stream => Parsed::Invalid,
            address => Parsed::Complete {
                len,
                client: address.map(|address| address.source),
            },
        },
        Err(Error::BufferTooShort) if bytes.len() < len_max => Parsed::Incomplete,
        // Also one of version 2 that is all there, and has no room for its addresses.
        Err(_) => Parsed::Invalid,
    }
}

/// The command of a header of version 2, with the version, and the length of all of it, if so much
/// of it is there.
fn v2_announced(bytes: &[u8]) -> Option<(u8, usize)> {
    match *bytes.strip_prefix(V2_SIGNATURE)? {
        [command, _, high, low, ..] => {
            let rest = usize::from(u16::from_be_bytes([high, low]));
            Some((command, V2_SIGNATURE.len() + 4 + rest))
        }
        _ => None,
    }
}

/// Writes the header for `client`, who connected to `service`, to the start of `buffer`. Returns
/// its length.
pub(super) fn write(
    version: ProxyVersion,
    client: SocketAddr,
    service: SocketAddr,
    buffer: &mut [u8],
) -> usize {
    let (source, destination) = same_family(client, service);
    let header = ProxyHeader::with_address(ProxiedAddress::stream(source, destination));
    let written = match version {
        ProxyVersion::V1 => header.encode_to_slice_v1(buffer),
        ProxyVersion::V2 => header.encode_to_slice_v2(buffer),
    };
    written.expect("two addresses of one family fit into any buffer used here")
}

/// A header has room for one family only. An upstream may tell of a client of another one than
/// its own connection's; IPv4 is written as IPv4-mapped then.
fn same_family(a: SocketAddr, b: SocketAddr) -> (SocketAddr, SocketAddr) {
    if a.is_ipv4() == b.is_ipv4() {
        return (a, b);
    }
    let v6 = |address: SocketAddr| match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    (v6(a), v6(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> [(SocketAddr, SocketAddr); 3] {
        [
            ("192.0.2.1:1234", "198.51.100.2:80"),
            ("[2001:db8::1]:1234", "[2001:db8::2]:80"),
            ("192.0.2.1:1234", "[2001:db8::2]:80"),
        ]
        .map(|(client, service)| (client.parse().unwrap(), service.parse().unwrap()))
    }

    #[test]
    fn what_is_written_is_read_and_every_part_of_it_is_incomplete() {
        for (client, service) in addresses() {
            for version in [ProxyVersion::V1, ProxyVersion::V2] {
                let mut buffer = [b'x'; HEADER_MAX];
                let len = write(version, client, service, &mut buffer);
                let Parsed::Complete {
                    len: read,
                    client: Some(read_client),
                } = parse(&buffer)
                else {
                    panic!("{:?}", parse(&buffer));
                };
                assert_eq!(read, len);
                assert_eq!(read_client.ip().to_canonical(), client.ip());
                assert_eq!(read_client.port(), client.port());
                for part in 0..len {
                    assert_eq!(
                        parse(&buffer[..part]),
                        Parsed::Incomplete,
                        "{part} of {len}"
                    );
                }
            }
        }
    }

    #[test]
    fn an_upstream_may_speak_for_itself() {
        let local = Parsed::Complete {
            len: 15,
            client: None,
        };
        assert_eq!(parse(b"PROXY UNKNOWN\r\nx"), local);
        let mut buffer = [0; 64];
        let len = ProxyHeader::with_local()
            .encode_to_slice_v2(&mut buffer)
            .unwrap();
        assert_eq!(parse(&buffer), Parsed::Complete { len, client: None });
        // Of a family, but without its addresses, and with what the upstream says behind it.
        let bytes = [V2_SIGNATURE, b"\x20\x11\0\x03abcGET /\r\n"].concat();
        let (len, client) = (19, None);
        assert_eq!(parse(&bytes), Parsed::Complete { len, client });
        assert_eq!(parse(&bytes[..len]), Parsed::Complete { len, client });
        assert_eq!(parse(&bytes[..len - 1]), Parsed::Incomplete);
    }

    #[test]
    fn nothing_is_waited_for_that_cannot_come() {
        let v2 = |rest: &[u8]| parse(&[V2_SIGNATURE, rest].concat());
        // Complete, and too short for two addresses of its family.
        assert_eq!(v2(b"\x21\x11\0\x03abc"), Parsed::Invalid);
        assert_eq!(v2(b"\x21\x21\0\0"), Parsed::Invalid);
        assert_eq!(v2(b"\x21\x11\0\x0c"), Parsed::Incomplete);
        // Longer than is read.
        assert_eq!(v2(b"\x21\x11\x0f\xf0"), Parsed::Incomplete);
        assert_eq!(v2(b"\x21\x11\x0f\xf1"), Parsed::Invalid);
    }

    #[test]
    fn anything_else_is_invalid() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
            b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
            &[b'P'; 200],
            &[0; 16],
        ] {
            assert_eq!(parse(bytes), Parsed::Invalid, "{}", bytes.escape_ascii());
        }
        let mut long = [0; HEADER_MAX];
        long[..16].copy_from_slice(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff");
        assert_eq!(parse(&long), Parsed::Invalid);
    }
}
