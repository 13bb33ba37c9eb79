use std::{fs, ops::RangeInclusive, path::PathBuf, sync::Arc};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use socket2::{Domain, Socket, Type};
use tokio::{io::AsyncReadExt as _, net::TcpListener, task::JoinHandle};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{backends::fixture, config::HealthPolicy, netlink::namespace::in_namespace};

fn service(check: Check) -> ProxyService {
    let plain = fixture::service("", &["10.0.0.1:80"]);
    ProxyService {
        check: Some(check),
        health: HealthPolicy {
            timeout: Duration::from_secs(20),
            ..HealthPolicy::default()
        },
        ..(**plain.proxy().unwrap()).clone()
    }
}

async fn run(service: &ProxyService, address: SocketAddr) -> Result<Checked, CheckError> {
    let checker = Checker::new(service).unwrap().unwrap();
    checker.check(address, &Target::Address(address)).await
}

#[tokio::test]
async fn a_spliced_services_check_learns_what_the_backend_agrees_to() {
    let (_listener, address) = listener().await;
    for spliced in [true, false] {
        let service = ProxyService {
            spliced,
            ..service(Check::Tcp)
        };
        let found = run(&service, address).await.unwrap();
        assert_eq!(found.agreed.is_some(), spliced, "{found:?}");
    }
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A server that answers one connection with `response`, closes, and returns what it was sent
/// until the blank line, or until the end.
async fn answering(response: &'static str) -> (SocketAddr, JoinHandle<String>) {
    let (listener, address) = listener().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            // A check that is over ends with a RST.
            match stream.read_u8().await {
                Ok(byte) => request.push(byte),
                Err(_) => break,
            }
        }
        stream.write_all(response.as_bytes()).await.unwrap();
        String::from_utf8(request).unwrap()
    });
    (address, server)
}

fn http(status: &[RangeInclusive<u16>]) -> ProxyService {
    service(Check::Http {
        path: "/health?deep=1".into(),
        host: None,
        status: status.to_vec(),
    })
}

#[tokio::test]
async fn a_listener_is_well_and_its_connection_is_reset() {
    let (listener, address) = listener().await;
    run(&service(Check::Tcp), address).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let error = stream.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn nobody_listening_is_refused() {
    let (listener, address) = listener().await;
    drop(listener);
    assert_eq!(
        run(&service(Check::Tcp), address).await,
        Err(CheckError::Refused)
    );
}

#[tokio::test]
async fn no_answer_is_a_timeout() {
    // A full accept queue drops further SYNs.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket
        .bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into())
        .unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let _filling = TcpStream::connect(address).await.unwrap();
    let mut service = service(Check::Tcp);
    service.health.timeout = Duration::from_millis(50);
    assert_eq!(run(&service, address).await, Err(CheckError::Timeout));
}

#[tokio::test]
async fn an_expected_status_is_well_whatever_the_body() {
    let (address, server) =
        answering("HTTP/1.1 204 No Content\r\ncontent-length: 99\r\n\r\n").await;
    run(&http(&[200..=299]), address).await.unwrap();
    let request = server.await.unwrap();
    let expected = format!(
        "GET /health?deep=1 HTTP/1.1\r\nhost: {address}\r\nuser-agent: levee\r\nconnection: close\r\n\r\n"
    );
    assert_eq!(request, expected);
}

#[tokio::test]
async fn another_status_is_not() {
    let (address, _server) = answering("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(
        run(&http(&[200..=299, 404..=404]), address).await,
        Err(CheckError::Status(503))
    );
}

#[tokio::test]
async fn what_is_no_http_is_told_from_a_closed_connection() {
    let (address, _server) = answering("SSH-2.0-OpenSSH_9.2\r\n").await;
    let error = run(&http(&[200..=299]), address).await.unwrap_err();
    assert!(matches!(error, CheckError::Http(_)), "{error}");
    let (address, _server) = answering("").await;
    let error = run(&http(&[200..=299]), address).await;
    assert_eq!(error, Err(CheckError::Closed));
}

#[tokio::test]
async fn an_endless_head_is_given_up() {
    let (listener, address) = listener().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        // Ends when the check has reset the connection.
        while stream.write_all(&[b'a'; 4096]).await.is_ok() {}
    });
    let error = run(&http(&[200..=299]), address).await.unwrap_err();
    assert!(matches!(error, CheckError::Http(_)), "{error}");
    server.await.unwrap();
}

#[tokio::test]
async fn a_configured_host_is_asked_for() {
    let (address, server) = answering("HTTP/1.1 200 OK\r\n\r\n").await;
    let mut service = http(&[200..=200]);
    if let Some(Check::Http { host, .. }) = &mut service.check {
        *host = Some("app.example".into());
    }
    run(&service, address).await.unwrap();
    assert!(server.await.unwrap().contains("host: app.example\r\n"));
}

#[tokio::test]
async fn the_proxy_header_comes_first_and_names_nobody() {
    for (version, header) in [
        (ProxyVersion::V1, &b"PROXY UNKNOWN\r\n"[..]),
        (
            ProxyVersion::V2,
            &b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"[..],
        ),
    ] {
        let (listener, address) = listener().await;
        let mut service = http(&[200..=200]);
        service.send_proxy = Some(version);
        let check = tokio::spawn(async move { run(&service, address).await });
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut first = vec![0; header.len() + 3];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(first, [header, b"GET"].concat());
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        check.await.unwrap().unwrap();
    }
}

/// A TLS server for "app.example", and a directory with its certificate.
async fn tls_server() -> (SocketAddr, tempfile::TempDir, PathBuf) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["app.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // A client that does not like the certificate ends the handshake.
            let _ = acceptor.accept(stream).await;
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    fs::write(&file, cert.pem()).unwrap();
    (address, dir, file)
}

fn tls(name: Option<&str>, ca_file: Option<PathBuf>) -> ProxyService {
    service(Check::Tls {
        name: name.map(Into::into),
        ca_file,
    })
}

#[tokio::test]
async fn a_certificate_is_verified_only_when_there_is_an_authority() {
    let (address, _dir, file) = tls_server().await;
    run(&tls(None, None), address).await.unwrap();
    run(&tls(Some("other.example"), None), address)
        .await
        .unwrap();
    run(&tls(Some("app.example"), Some(file.clone())), address)
        .await
        .unwrap();
    let error = run(&tls(Some("other.example"), Some(file.clone())), address)
        .await
        .unwrap_err();
    assert!(matches!(error, CheckError::Tls(_)), "{error}");
    // Without a configured name, the backend's address is what the certificate must be for.
    let error = run(&tls(None, Some(file)), address).await.unwrap_err();
    assert!(matches!(error, CheckError::Tls(_)), "{error}");
}

#[tokio::test]
async fn a_foreign_authority_does_not_verify() {
    let (address, ..) = tls_server().await;
    let (_, _dir, foreign) = tls_server().await;
    let error = run(&tls(Some("app.example"), Some(foreign)), address)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn what_is_no_tls_is_told_from_a_closed_connection() {
    let (listener, address) = listener().await;
    let check = tokio::spawn(async move { run(&tls(None, None), address).await });
    let (mut stream, _) = listener.accept().await.unwrap();
    stream
        .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        .await
        .unwrap();
    let error = check.await.unwrap().unwrap_err();
    assert!(matches!(error, CheckError::Tls(_)), "{error}");
    let check = tokio::spawn(async move { run(&tls(None, None), address).await });
    drop(listener.accept().await.unwrap());
    assert_eq!(check.await.unwrap(), Err(CheckError::Closed));
}

#[test]
fn files_without_certificates_are_no_authorities() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    let refusal = |file: &Path| {
        let service = tls(None, Some(file.to_owned()));
        format!("{:#}", Checker::new(&service).unwrap_err())
    };
    assert!(refusal(&file).contains("cannot read"));
    fs::write(&file, "nothing").unwrap();
    assert!(refusal(&file).contains("no certificate in"));
    let pipe = dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(refusal(&pipe).ends_with("found a pipe, allowed: a regular file"));
    assert!(refusal(Path::new("/dev/zero")).ends_with("found a device, allowed: a regular file"));
}

#[test]
fn failures_of_this_machine_do_not_blame_the_backend() {
    for (errno, expected) in [
        (Errno::EMFILE, false),
        (Errno::ENFILE, false),
        (Errno::ENOBUFS, false),
        (Errno::EADDRNOTAVAIL, false),
        (Errno::EPERM, false),
        (Errno::ECONNREFUSED, true),
        (Errno::ETIMEDOUT, true),
        (Errno::EHOSTUNREACH, true),
        (Errno::ENETUNREACH, true),
        (Errno::ECONNRESET, true),
    ] {
        let error = CheckError::from(io::Error::from(errno));
        assert_eq!(error.blames_backend(), expected, "{error}");
    }
}

/// Runs a test where 40000 is the only local port.
fn with_one_port(test: impl AsyncFnOnce() + Send + 'static) {
    in_namespace(|| {
        // Written by a thread of this namespace, it is this namespace's.
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40000").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test());
    });
}

#[test]
fn a_check_without_a_local_port_is_not_done() {
    with_one_port(async || {
        let listener = TcpListener::bind("127.0.0.1:80").await.unwrap();
        let address = listener.local_addr().unwrap();
        run(&service(Check::Tcp), address).await.unwrap();
        let _only_port = TcpStream::connect(address).await.unwrap();
        let error = run(&service(Check::Tcp), address).await.unwrap_err();
        assert!(matches!(error, CheckError::NotDone(_)), "{error}");
    });
}

#[test]
fn a_connection_with_itself_is_no_server() {
    with_one_port(async || {
        let address = SocketAddr::from(([127, 0, 0, 1], 40_000));
        // Twice: the first must not leave the port in TIME_WAIT, where a server could not have it.
        for _ in 0..2 {
            let result = run(&service(Check::Tcp), address).await;
            assert_eq!(result, Err(CheckError::Refused));
        }
        TcpListener::bind(address).await.unwrap();
    });
}
