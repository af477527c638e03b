//! Certificates that are generated for one test.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// A self-signed certificate with its key.
#[derive(Clone)]
pub struct Certificate {
    pem: String,
    key: String,
    der: CertificateDer<'static>,
    config: Arc<ServerConfig>,
}

impl Certificate {
    /// Generates a certificate for one name, valid today.
    pub fn valid_for(name: &str) -> Self {
        Self::with(&[name], |_| ())
    }

    /// Generates a certificate for several names, valid today.
    pub fn valid_for_all(names: &[&str]) -> Self {
        Self::with(names, |_| ())
    }

    /// Generates an expired certificate.
    pub fn expired_for(name: &str) -> Self {
        Self::with(&[name], |params| params.not_after = date_time_ymd(2001, 1, 1))
    }

    fn with(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        change(&mut params);
        let certificate = params.self_signed(&key).unwrap();
        let key_pem = key.serialize_pem();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        Self { pem: certificate.pem(), key: key_pem, der: certificate.der().clone(), config: Arc::new(config) }
    }

    pub fn acceptor(&self) -> TlsAcceptor {
        self.config.clone().into()
    }

    pub fn der(&self) -> CertificateDer<'static> {
        self.der.clone()
    }

    /// Writes the chain and the key to files. Returns their paths, and the directory, which is removed when dropped.
    pub fn as_files(&self) -> (PathBuf, PathBuf, tempfile::TempDir) {
        let (chain, dir) = self.as_ca_file();
        let key = dir.path().join("key.pem");
        std::fs::write(&key, &self.key).unwrap();
        (chain, key, dir)
    }

    /// Writes a file for the setting `ca_file`. Returns its path, and the directory, which is removed when dropped.
    pub fn as_ca_file(&self) -> (PathBuf, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        std::fs::write(&path, &self.pem).unwrap();
        (path, dir)
    }
}
