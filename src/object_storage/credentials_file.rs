//! An access key in a file, in the format of AWS's `credentials` file:
//!
//! ```ini
//! [default]
//! aws_access_key_id = ASIA…
//! aws_secret_access_key = …
//! aws_session_token = …
//! ```
//!
//! The file is read again while the service runs. A program that renews the key replaces the file, as Kubernetes does with mounted
//! secrets.

use std::future::Future;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use secrecy::ExposeSecret as _;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::credentials::AccessKey;
use crate::telemetry::RateLimitedLog;

/// Maximum age of the access key in memory; after that, the file is read again.
const MAX_AGE: Duration = Duration::from_secs(1);
/// Maximum size of the file in bytes.
const MAX_BYTES: u64 = 64 << 10;

/// Provides the access key in a file, with which requests are signed.
#[derive(Debug)]
pub(super) struct FileCredentials {
    path: PathBuf,
    current: Mutex<Current>,
    failures: RateLimitedLog,
}

/// The access key that was read last.
#[derive(Debug)]
struct Current {
    key: Arc<AwsCredential>,
    read_at: Instant,
}

impl FileCredentials {
    /// Reads the file.
    pub(super) fn open(path: PathBuf) -> Result<Self, String> {
        let current = Mutex::new(Current { key: Arc::new(read(&path)?), read_at: Instant::now() });
        Ok(Self { path, current, failures: RateLimitedLog::default() })
    }

    /// Returns the access key in the file. While the file cannot be used, returns the one that was read last.
    async fn current(&self) -> Arc<AwsCredential> {
        let mut current = self.current.lock().await;
        if current.read_at.elapsed() >= MAX_AGE {
            let path = self.path.clone();
            let found = tokio::task::spawn_blocking(move || read(&path)).await;
            match found.unwrap_or_else(|error| Err(error.to_string())) {
                Ok(key) if key == *current.key => {}
                Ok(key) => {
                    current.key = Arc::new(key);
                    tracing::info!(
                        event = "credentials_file_changed",
                        "read new credentials of the object store from attachments.credentials_file"
                    );
                }
                Err(error) => self.log(&error),
            }
            current.read_at = Instant::now();
        }
        current.key.clone()
    }

    fn log(&self, error: &str) {
        let Some(failures) = self.failures.note(Instant::now()) else { return };
        tracing::warn!(
            event = "credentials_file_unusable",
            error,
            failures,
            "cannot read attachments.credentials_file; using the credentials that were read last"
        );
    }
}

impl CredentialProvider for FileCredentials {
    type Credential = AwsCredential;

    // Written out, because `async_trait` is not a dependency of this crate.
    fn get_credential<'a, 'r>(
        &'a self,
    ) -> Pin<Box<dyn Future<Output = object_store::Result<Arc<AwsCredential>>> + Send + 'r>>
    where
        'a: 'r,
        Self: 'r,
    {
        Box::pin(async move { Ok(self.current().await) })
    }
}

fn read(path: &Path) -> Result<AwsCredential, String> {
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let (mut text, file) = (String::new(), std::fs::File::open(path).map_err(failed)?);
    file.take(MAX_BYTES).read_to_string(&mut text).map_err(failed)?;
    let key = parse(&text).map_err(|why| format!("{} {why}", path.display()))?;
    Ok(AwsCredential {
        key_id: key.id,
        secret_key: key.secret.expose_secret().to_owned(),
        token: key.session_token.map(|token| token.expose_secret().to_owned()),
    })
}

/// Returns the access key in the section `default`, or in the lines before the first section.
fn parse(text: &str) -> Result<AccessKey, &'static str> {
    let (mut is_default, mut id, mut secret, mut session_token) = (true, None, None, None);
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            is_default = name.trim() == "default";
        } else if let (true, Some((name, value))) = (is_default, line.split_once('=')) {
            let value = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
            match name.trim() {
                "aws_access_key_id" => id = value,
                "aws_secret_access_key" => secret = value,
                "aws_session_token" => session_token = value,
                _ => {}
            }
        }
    }
    let id = id.ok_or("has no aws_access_key_id in the section [default]")?;
    let secret = secret.ok_or("has no aws_secret_access_key in the section [default]")?;
    let key = AccessKey { id, secret: secret.into(), session_token: session_token.map(Into::into) };
    if key.is_valid() { Ok(key) } else { Err("has characters that are not allowed in an access key, or is too long") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn section_default_counts() {
        let text = "# comment\n[other]\naws_access_key_id = no\n\n[default]\r\naws_access_key_id=AKIA1\n\
                    ; comment\n aws_secret_access_key = a/b+c= \naws_session_token = FwoG==\nregion = eu-central-1\n[last]\naws_session_token=no";
        let key = parse(text).unwrap();
        let token = key.session_token.unwrap();
        assert_eq!((&*key.id, key.secret.expose_secret(), token.expose_secret()), ("AKIA1", "a/b+c=", "FwoG=="));
        let key = parse("aws_access_key_id=AKIA1\naws_secret_access_key=s\naws_session_token =\n").unwrap();
        assert!(key.session_token.is_none(), "permanent, and without sections");
    }

    #[test]
    fn faults_name_what_is_missing_and_no_secret() {
        for (text, missing) in [
            ("", "aws_access_key_id"),
            ("[profile]\naws_access_key_id=a\naws_secret_access_key=s", "aws_access_key_id"),
            ("aws_access_key_id=a\naws_secret_access_key=", "aws_secret_access_key"),
            ("aws_access_key_id=a b\naws_secret_access_key=hidden", "not allowed"),
            ("aws_access_key_id=a\naws_secret_access_key=s\naws_session_token=hidden token", "not allowed"),
        ] {
            let fault = parse(text).unwrap_err();
            assert!(fault.contains(missing) && !fault.contains("hidden"), "{fault}");
        }
    }

    #[tokio::test]
    async fn replaced_file_is_read_and_a_broken_one_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        assert!(FileCredentials::open(path.clone()).unwrap_err().contains("credentials"), "it is missing");
        write("aws_access_key_id=one\naws_secret_access_key=s");
        let credentials = FileCredentials::open(path.clone()).unwrap();
        write("aws_access_key_id=two\naws_secret_access_key=s\naws_session_token=t");
        assert_eq!(credentials.current().await.key_id, "one");
        credentials.current.lock().await.read_at -= MAX_AGE;
        let renewed = credentials.current().await;
        assert_eq!((&*renewed.key_id, renewed.token.as_deref()), ("two", Some("t")));
        write("half of a fi");
        credentials.current.lock().await.read_at -= MAX_AGE;
        assert_eq!(credentials.current().await.key_id, "two");
    }
}
