//! The certificate for TLS: a chain and its key, with rustls and aws-lc-rs.
//!
//! Before a handshake, at most once a second, the files are read again if they have changed, so a renewed certificate
//! needs no restart. If the new files cannot be used, for example because only one of them has been replaced yet, the
//! certificate in use stays.

use std::fmt;
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::telemetry::RateLimitedLog;

/// Minimum interval of the checks for changed files.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A certificate chain with its key. Copies share the certificate in use.
#[derive(Clone)]
pub struct Certificate(Arc<Files>);

struct Files {
    chain: PathBuf,
    key: PathBuf,
    current: Mutex<Current>,
}

struct Current {
    acceptor: TlsAcceptor,
    /// The files that the certificate in use was read from.
    version: Version,
    checked_at: Instant,
    failures: RateLimitedLog,
}

/// The sizes and times of change of both files.
type Version = [Option<(u64, SystemTime)>; 2];

/// Why a certificate could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file could not be read, or contains no certificate or key.
    #[error("{path}: {reason}", path = path.display())]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Why it could not be read.
        reason: pem::Error,
    },
    /// The key does not match the certificate, or its type is not supported.
    #[error("the certificate cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

impl Certificate {
    /// Reads the chain and the key from PEM files.
    pub fn read(chain: &Path, key: &Path) -> Result<Self, CertificateError> {
        // Before the files are read: a change in the meantime is noticed later.
        let version = version(chain, key);
        let acceptor = load(chain, key)?;
        let current = Current { acceptor, version, checked_at: Instant::now(), failures: RateLimitedLog::default() };
        Ok(Self(Arc::new(Files { chain: chain.to_owned(), key: key.to_owned(), current: Mutex::new(current) })))
    }

    /// Performs the TLS handshake, with the files as they are now.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        if self.0.is_check_due() {
            let files = self.0.clone();
            // The files may be on a slow disk. If the task panics, the certificate in use stays.
            let _ = tokio::task::spawn_blocking(move || files.reload()).await;
        }
        let acceptor = self.0.current.lock().acceptor.clone();
        acceptor.accept(stream).await
    }
}

impl Files {
    fn is_check_due(&self) -> bool {
        let mut current = self.current.lock();
        let is_due = current.checked_at.elapsed() >= CHECK_INTERVAL;
        if is_due {
            current.checked_at = Instant::now();
        }
        is_due
    }

    /// Reads the files again if they have changed.
    fn reload(&self) {
        let version = version(&self.chain, &self.key);
        if self.current.lock().version == version {
            return;
        }
        let loaded = load(&self.chain, &self.key);
        let mut current = self.current.lock();
        match loaded {
            Ok(acceptor) => {
                current.acceptor = acceptor;
                current.version = version;
                tracing::info!(
                    event = "smtp_certificate_reloaded",
                    file = %self.chain.display(),
                    "new TLS certificate of the SMTP server is in use"
                );
            }
            Err(error) => {
                if let Some(count) = current.failures.note(tokio::time::Instant::now()) {
                    tracing::warn!(
                        event = "smtp_certificate_not_reloaded",
                        %error,
                        count,
                        "the changed TLS certificate of the SMTP server cannot be used; the earlier one stays in use"
                    );
                }
            }
        }
    }
}

/// Returns the version of both files. A file that cannot be examined has none.
fn version(chain: &Path, key: &Path) -> Version {
    let describe = |metadata: Metadata| Some((metadata.len(), metadata.modified().ok()?));
    [chain, key].map(|path| std::fs::metadata(path).ok().and_then(describe))
}

/// Reads the chain and the key.
fn load(chain: &Path, key: &Path) -> Result<TlsAcceptor, CertificateError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |reason| CertificateError::File { path, reason }
    };
    let chain = CertificateDer::pem_file_iter(chain).and_then(Iterator::collect).map_err(unreadable(chain))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(unreadable(key))?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(Arc::new(config).into())
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificate")
    }
}
