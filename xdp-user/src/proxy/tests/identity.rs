//! Who the client is: told to backends, and believed of upstreams.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use proxy_header::{ParseConfig, ProxyHeader};
use socket2::{Domain, Socket, Type};

use super::support::*;
use crate::{
    config::{Prefix, ProxyService, ProxyVersion},
    engine::reason::{CloseReason, Refusal},
    proxy::info::Filter,
};

/// Accepts PROXY headers from all of loopback.
fn behind_upstream(backend: SocketAddr) -> ProxyService {
    let mut options = options(&[backend]);
    options.accept_proxy = vec![Prefix::new([127, 0, 0, 0].into(), 8).unwrap()];
    options
}

#[test]
fn backends_are_told_the_client_and_then_get_its_bytes() {
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        for len in [0, 1, 300_000] {
            let (backend, served) = backend(|mut stream| read_all(&mut stream));
            let mut options = options(&[backend]);
            options.send_proxy = Some(version);
            let lab = Lab::new(options);
            let mut client = lab.connect();
            client.write_all(&pattern(1, len)).unwrap();
            fin(&client);
            assert_eq!(read_all(&mut client), b"");
            let received = served.join().unwrap();
            let (header, end) = ProxyHeader::parse(&received, ParseConfig::default()).unwrap();
            let address = header.proxied_address().unwrap();
            assert_eq!(address.source, client.local_addr().unwrap());
            assert_eq!(address.destination, lab.address);
            assert!(received[end..] == pattern(1, len));
            lab.ends(CloseReason::Finished, 1);
            // The header is nobody's bytes.
            assert_eq!(lab.service().stats.bytes[0].get(), len as u64);
        }
    }
}

#[test]
fn a_backend_that_speaks_first_is_told_at_once() {
    let (backend, served) = backend(|mut stream| {
        let mut header = [0; 6];
        stream.read_exact(&mut header).unwrap();
        stream.write_all(b"welcome").unwrap();
        header
    });
    let mut options = options(&[backend]);
    options.send_proxy = Some(ProxyVersion::V1);
    let lab = Lab::new(options);
    let mut client = lab.connect();
    let mut welcome = [0; 7];
    client.read_exact(&mut welcome).unwrap();
    assert_eq!(&served.join().unwrap(), b"PROXY ");
}

#[test]
fn a_trusted_upstream_is_believed_however_its_header_arrives() {
    let lab = Lab::new(behind_upstream(echo_server()));
    let header = b"PROXY TCP4 198.51.100.7 192.0.2.1 1234 80\r\n";
    let mut whole = header.to_vec();
    whole.extend_from_slice(b"hello");
    for piece in [1, 7, whole.len()] {
        let mut upstream = lab.connect();
        for bytes in whole.chunks(piece) {
            upstream.write_all(bytes).unwrap();
            if piece < whole.len() {
                thread::sleep(Duration::from_millis(1));
            }
        }
        let mut answer = [0; 5];
        upstream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello");
        let all = on_control(lab.proxy.list(&Filter::default(), 10)).unwrap();
        let [row] = &all.rows[..] else {
            panic!("{all:?}");
        };
        assert_eq!(row.client, "198.51.100.7:1234".parse().unwrap());
        assert_eq!(row.via, Some(upstream.local_addr().unwrap()));
        assert_eq!(row.bytes_from_client, 5);
        fin(&upstream);
        assert_eq!(read_all(&mut upstream), b"");
        until(|| lab.proxy.connections() == 0);
    }
    lab.ends(CloseReason::Finished, 3);
}

#[test]
fn what_is_no_header_ends_the_connection() {
    let lab = Lab::new(behind_upstream(echo_server()));
    let mut upstream = lab.connect();
    upstream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    read_until_error(&mut upstream, &mut Vec::new());
    // Half a header and a FIN: no more will come.
    let mut upstream = lab.connect();
    upstream.write_all(b"PROXY TCP4 198.51.100.7").unwrap();
    fin(&upstream);
    read_until_error(&mut upstream, &mut Vec::new());
    // Nothing and a FIN.
    let mut upstream = lab.connect();
    fin(&upstream);
    read_until_error(&mut upstream, &mut Vec::new());
    lab.ends(CloseReason::HeaderInvalid, 3);
}

#[test]
fn a_header_has_to_come_in_time() {
    let mut options = behind_upstream(echo_server());
    options.timeouts.header_ms = 50;
    let lab = Lab::new(options);
    assert_eq!(read_to_rst(&mut lab.connect()), b"");
    let mut upstream = lab.connect();
    upstream.write_all(b"PROXY ").unwrap();
    read_until_error(&mut upstream, &mut Vec::new());
    lab.ends(CloseReason::HeaderTimeout, 2);
}

#[test]
fn a_header_of_anybody_else_is_data_or_refused() {
    let header = b"PROXY TCP4 198.51.100.7 192.0.2.1 1234 80\r\n";
    let mut options = options(&[echo_server()]);
    options.accept_proxy = vec![Prefix::new([192, 0, 2, 0].into(), 24).unwrap()];
    options.accept_proxy_required = false;
    let lab = Lab::new(options.clone());
    let mut client = lab.connect();
    client.write_all(header).unwrap();
    fin(&client);
    assert_eq!(read_all(&mut client), header);
    lab.ends(CloseReason::Finished, 1);

    options.accept_proxy_required = true;
    let lab = Lab::new(options);
    assert_eq!(read_to_rst(&mut lab.connect()), b"");
    let refused = &lab.service().stats.refused;
    assert_eq!(refused[Refusal::UntrustedHeader.index()].get(), 1);
    assert_eq!(lab.service().stats.accepted.get(), 0);
}

#[test]
fn limits_are_of_the_client_that_the_header_tells() {
    let mut options = behind_upstream(echo_server());
    options.limits.per_client = 1;
    let lab = Lab::new(options);
    let connect = |client: &str| {
        let mut upstream = lab.connect();
        let header = format!("PROXY TCP4 {client} 192.0.2.1 1234 80\r\nx");
        upstream.write_all(header.as_bytes()).unwrap();
        upstream
    };
    let mut answer = [0];
    let mut first = connect("198.51.100.7");
    first.read_exact(&mut answer).unwrap();
    let mut other = connect("198.51.100.8");
    other.read_exact(&mut answer).unwrap();
    read_until_error(&mut connect("198.51.100.7"), &mut Vec::new());
    let refused = &lab.service().stats.refused;
    assert_eq!(refused[Refusal::ClientConnections.index()].get(), 1);
    until(|| lab.closed(CloseReason::Refused) == 1);
    drop(first);
    until(|| lab.proxy.connections() == 1);
    connect("198.51.100.7").read_exact(&mut answer).unwrap();
}

#[test]
fn connections_to_backends_come_from_the_configured_addresses_in_turn() {
    let own = [[127, 10, 0, 1], [127, 10, 0, 2]].map(IpAddr::from);
    let kind = Type::STREAM;
    let listener = Socket::new(Domain::IPV4, kind, None).unwrap();
    listener.bind(&address().into()).unwrap();
    listener.listen(16).unwrap();
    let backend = listener.local_addr().unwrap().as_socket().unwrap();
    let mut options = options(&[backend]);
    options.source = own.to_vec();
    let globals = crate::config::ProxyGlobals {
        workers: Some(1),
        ..Default::default()
    };
    let lab = Lab::with(&globals, options);
    let mut seen = Vec::new();
    for _ in 0..4 {
        let _client = lab.connect();
        let (_, peer) = listener.accept().unwrap();
        seen.push(peer.as_socket().unwrap().ip());
    }
    for ip in own {
        assert_eq!(seen.iter().filter(|seen| **seen == ip).count(), 2);
    }
}
