//! Health by a complete TLS handshake.

use std::{io, net::SocketAddr, path::Path, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::check::CheckError;
use crate::{config::Target, regular_file};

/// Length of a file of certificate authorities, bytes: all that browsers trust take a quarter of a
/// megabyte.
const AUTHORITIES_LEN_MAX: u64 = 8 << 20;

/// How the handshake is done.
pub(super) struct Handshake {
    connector: TlsConnector,
    name: Option<ServerName<'static>>,
}

impl std::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handshake")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Handshake {
    /// Asks for `name`, or for the backend's own; accepts certificates by an authority in
    /// `ca_file`, or any.
    ///
    /// # Errors
    /// Fails when the file cannot be read or holds no certificate, or `name` is no name.
    pub(super) fn new(name: Option<&str>, ca_file: Option<&Path>) -> Result<Self> {
        let name = name
            .map(|name| {
                ServerName::try_from(name.to_owned())
                    .with_context(|| format!("\"{name}\" is no server name"))
            })
            .transpose()?;
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let config = match ca_file {
            Some(file) => builder.with_root_certificates(authorities(file)?),
            None => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider))),
        };
        let mut config = config.with_no_client_auth();
        // A resumed session would check less than a client does.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            name,
        })
    }

    pub(super) async fn check(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        target: &Target,
    ) -> Result<(), CheckError> {
        let name = match (&self.name, target) {
            (Some(name), _) => name.clone(),
            (None, Target::Address(_)) => ServerName::from(address.ip()),
            (None, Target::Name { host, .. }) => ServerName::try_from(host.clone())
                .map_err(|error| CheckError::NotDone(format!("server name {host}: {error}")))?,
        };
        match self.connector.connect(name, stream).await {
            Ok(_) => Ok(()),
            Err(error) => Err(failure(error)),
        }
    }
}

fn failure(error: io::Error) -> CheckError {
    match error.get_ref() {
        Some(inner) if inner.is::<rustls::Error>() => CheckError::Tls(match inner.source() {
            Some(source) => format!("{inner}: {source}"),
            None => inner.to_string(),
        }),
        _ => error.into(),
    }
}

fn authorities(file: &Path) -> Result<RootCertStore> {
    let pem = regular_file::read(file, AUTHORITIES_LEN_MAX)
        .with_context(|| format!("cannot read {}", file.display()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate =
            certificate.with_context(|| format!("{} is no PEM file", file.display()))?;
        roots
            .add(certificate)
            .with_context(|| format!("a certificate in {} is not usable", file.display()))?;
    }
    ensure!(
        !roots.is_empty(),
        "no certificate in {}, allowed: a PEM file of certificate authorities",
        file.display()
    );
    Ok(roots)
}

/// Accepts every certificate whose key the server has: the check asks whether the server serves,
/// not who it is.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
