//! TLS for outgoing connections: rustls with aws-lc-rs, with and without verified certificates.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::words;
use crate::domain::routing::relay::TlsMode;
use crate::smtp::client::settings::SetupError;

/// Maximum length of the error text about a certificate, in characters.
const FAULT_LIMIT: usize = 200;

/// A connector for one [`TlsMode`].
#[derive(Clone)]
pub(in crate::smtp) struct Tls {
    connector: TlsConnector,
    /// Verifies certificates after a handshake that accepted any.
    verifier: Option<Arc<WebPkiServerVerifier>>,
}

impl Tls {
    /// Creates a connector. `ca_file` is trusted in addition to the system's certificates; it matters for
    /// [`TlsMode::Verified`] only.
    pub fn new(mode: TlsMode, ca_file: Option<&Path>) -> Result<Self, SetupError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let config = if mode == TlsMode::Verified {
            builder.with_root_certificates(roots(ca_file)?).with_no_client_auth()
        } else {
            let verifier = Arc::new(AnyCertificate(provider));
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        };
        Ok(Self { connector: Arc::new(config).into(), verifier: None })
    }

    /// Creates an opportunistic connector; [`Tls::fault`] then returns why [`TlsMode::Verified`] would have failed.
    pub fn probing(ca_file: Option<&Path>) -> Result<Self, SetupError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(ca_file)?), provider).build();
        let verifier = verifier.map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(Self { verifier: Some(verifier), ..Self::new(TlsMode::Opportunistic, None)? })
    }

    /// Returns the TLS configuration.
    pub fn config(&self) -> ClientConfig {
        self.connector.config().as_ref().clone()
    }

    /// Performs the handshake. The certificate must be valid for `host`, or for `ip` if `host` is not a host name.
    pub async fn connect(&self, host: &str, ip: IpAddr, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        self.connector.connect(server_name(host, ip), stream).await
    }

    /// Returns what is wrong with the server's certificate, for a connector created by [`Tls::probing`].
    pub fn fault(&self, host: &str, ip: IpAddr, stream: &TlsStream<TcpStream>) -> Option<String> {
        let verifier = self.verifier.as_ref()?;
        let (own, others) = stream.get_ref().1.peer_certificates()?.split_first()?;
        let fault = verifier.verify_server_cert(own, others, &server_name(host, ip), &[], UnixTime::now()).err()?;
        // The error may list every name in the certificate, of which there may be any number.
        Some(words::tls(&fault).chars().filter(|c| !c.is_control()).take(FAULT_LIMIT).collect())
    }
}

fn server_name(host: &str, ip: IpAddr) -> ServerName<'static> {
    ServerName::try_from(host.to_owned()).unwrap_or(ServerName::IpAddress(ip.into()))
}

/// Returns protocol and cipher, such as `TLSv1.3 TLS13_AES_256_GCM_SHA384`.
pub(in crate::smtp) fn describe(stream: &TlsStream<TcpStream>) -> String {
    let (_, connection) = stream.get_ref();
    let version = match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "TLS",
    };
    let cipher = connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
    format!("{version} {}", cipher.unwrap_or("unknown"))
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, SetupError> {
    let mut roots = RootCertStore::empty();
    // A system certificate that cannot be parsed is skipped.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let unreadable = |reason: String| SetupError::CaFile { path: path.into(), reason };
        let found = CertificateDer::pem_file_iter(path).map_err(|error| unreadable(error.to_string()))?;
        let mut added = 0;
        for certificate in found {
            let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
            roots.add(certificate).map_err(|error| unreadable(error.to_string()))?;
            added += 1;
        }
        if added == 0 {
            return Err(unreadable("it contains no certificate".into()));
        }
    }
    Ok(roots)
}

/// Accepts every certificate, for TLS that is opportunistic (RFC 7435) or required. This protects against passive
/// listeners, but not against an active attacker, who can present another certificate. Verification would not help
/// if TLS is opportunistic: the attacker can remove STARTTLS from the offer.
struct AnyCertificate(Arc<CryptoProvider>);

impl fmt::Debug for AnyCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnyCertificate")
    }
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
