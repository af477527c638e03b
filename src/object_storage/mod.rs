//! The bucket for large attachments, in an object store that is compatible with S3.
//!
//! Each object is stored under a separate key, which has the SHA-256 of the attachment and a new id. A key is never
//! used twice, so a late or repeated request about an object can never affect another one: see
//! `docs/internals/object-storage.md`.
//!
//! While the store fails, only a few requests at a time find out whether it works again; all others fail at once, so that
//! they do not all wait for it.

mod connector;
mod credentials;
mod credentials_file;
mod failure;

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::stream::{self, BoxStream, Stream, StreamExt as _, TryStreamExt as _};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{BackoffConfig, GetOptions, ObjectStore as _, PutOptions, RetryConfig};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};
use url::Url;

use crate::domain::id::uuid_at;
use crate::domain::key::hex;
use crate::metrics::METRICS;
use crate::metrics::labels::{ObjectOperation, ObjectResult};
use crate::telemetry::RateLimitedLog;
use connector::Connector;
pub use credentials::{AccessKey, Credentials, CredentialsError};
use failure::{is_about_bucket, summary};

/// Maximum number of requests of one client to the store at a time, without downloads of API users.
pub const CONCURRENCY: usize = 32;
/// The memory for uploaded files that are being moved to the store, in units of a mebibyte.
const MEMORY_UNITS: u32 = 64;
const MEMORY_UNIT: u64 = 1 << 20;
/// Minimum speed: time limits grow with the size of an object.
const BYTES_PER_SECOND: u64 = 1 << 20;
/// How often a request is repeated.
const RETRIES: usize = 2;
/// How long all requests fail at once after one has failed.
const FAIL_FAST: Duration = Duration::from_secs(1);
/// How many requests at a time are sent from then on, until one succeeds; all others fail at once.
const PROBES: usize = 4;

/// The bucket, and how to reach it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The bucket.
    pub bucket: String,
    /// The URL of the service; `None` for AWS.
    pub endpoint: Option<Url>,
    /// The region, which is part of signatures.
    pub region: String,
    /// The credentials with which requests are signed.
    pub credentials: Credentials,
    /// The beginning of all keys.
    pub prefix: String,
    /// Whether the bucket is in the path of URLs, and not in the host name.
    pub path_style: bool,
    /// Attachments with more bytes are stored in the bucket.
    pub threshold: u64,
    /// Time limit of a request with its retries.
    pub timeout: Duration,
}

/// Stores, reads and deletes objects.
pub struct ObjectStorage {
    store: AmazonS3,
    bucket: String,
    prefix: String,
    threshold: u64,
    timeout: Duration,
    slots: Semaphore,
    probes: Semaphore,
    memory: Semaphore,
    /// When a request last failed, if none has succeeded since.
    failed_at: Mutex<Option<Instant>>,
    failures: RateLimitedLog,
}

impl fmt::Debug for ObjectStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectStorage").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

/// Why an object could not be stored, read or deleted. The text has no addresses and no credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// The store cannot be reached, or refuses the request. The cause is in the log.
    #[error("the object store with the attachments is not available")]
    Unavailable,
    /// This process has no store.
    #[error("an attachment is in an object store, but attachments.bucket is not set in this process")]
    NotConfigured,
    /// The object does not exist.
    #[error("object {key} is not in bucket {bucket}")]
    Missing {
        /// The bucket.
        bucket: String,
        /// The object's key.
        key: String,
    },
    /// The object has other bytes than were stored.
    #[error("object {key} in bucket {bucket} does not have the bytes that were stored")]
    Damaged {
        /// The bucket.
        bucket: String,
        /// The object's key.
        key: String,
    },
}

/// Why one call failed.
enum Failure {
    /// The object does not exist, or has other bytes.
    Object(ObjectError),
    /// The store failed, with this text.
    Store(String),
}

impl From<object_store::Error> for Failure {
    fn from(error: object_store::Error) -> Self {
        Self::Store(error.to_string())
    }
}

impl ObjectStorage {
    /// Creates the client. Reads the file with the credentials, if there is one. Does not connect yet.
    pub fn new(settings: Settings) -> Result<Self, ObjectStorageError> {
        let Settings { bucket, endpoint, region, prefix, path_style, threshold, timeout, .. } = settings;
        let retries = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(1),
                base: 2.,
            },
            max_retries: RETRIES,
            retry_timeout: timeout,
        };
        let mut builder = AmazonS3Builder::new()
            .with_http_connector(Connector::new().map_err(ObjectStorageError::Tls)?)
            .with_bucket_name(&bucket)
            .with_region(region)
            .with_virtual_hosted_style_request(!path_style)
            // Not every service has the request that deletes several objects.
            .with_disable_bulk_delete(true)
            .with_allow_http(true)
            .with_retry(retries);
        if let Some(mut endpoint) = endpoint {
            if !path_style {
                let host = format!("{bucket}.{}", endpoint.host_str().unwrap_or_default());
                endpoint.set_host(Some(&host)).map_err(|_| ObjectStorageError::Endpoint)?;
            }
            builder = builder.with_endpoint(endpoint.as_str().trim_end_matches('/'));
        }
        Ok(Self {
            store: settings.credentials.apply(builder)?.build()?,
            bucket,
            prefix,
            threshold,
            timeout,
            slots: Semaphore::new(CONCURRENCY),
            probes: Semaphore::new(PROBES),
            memory: Semaphore::new(MEMORY_UNITS as usize),
            failed_at: Mutex::default(),
            failures: RateLimitedLog::default(),
        })
    }

    /// Returns whether an attachment of this size belongs into the bucket.
    pub fn is_above_threshold(&self, size: u64) -> bool {
        size > self.threshold
    }

    /// Waits until a file of this size may be in memory besides others, to be stored. A file that needs more than all of the memory
    /// waits until it is alone.
    pub async fn reserve_memory(&self, size: u64) -> Option<SemaphorePermit<'_>> {
        let units = u32::try_from(size.div_ceil(MEMORY_UNIT)).unwrap_or(MEMORY_UNITS).min(MEMORY_UNITS);
        // Never closed.
        self.memory.acquire_many(units).await.ok()
    }

    /// Returns the key for a new object with this SHA-256.
    pub fn new_key(&self, sha256: &str, now: DateTime<Utc>) -> String {
        format!("{}{sha256}-{}", self.prefix, uuid_at(now).simple())
    }

    /// Stores an object. Once this returns, the store has it durably. After an error it may have it too, or get it
    /// later.
    pub async fn put(&self, key: &str, data: Bytes) -> Result<(), ObjectError> {
        let size = data.len() as u64;
        self.call(ObjectOperation::Put, size, self.put_now(key, data)).await
    }

    async fn put_now(&self, key: &str, data: Bytes) -> Result<(), Failure> {
        self.store.put_opts(&path(key)?, data.into(), PutOptions::default()).await?;
        Ok(())
    }

    /// Returns an object of this size with this SHA-256.
    pub async fn get(&self, key: &str, size: u64, sha256: &str) -> Result<Vec<u8>, ObjectError> {
        self.call(ObjectOperation::Get, size, self.get_now(key, size, sha256)).await
    }

    async fn get_now(&self, key: &str, size: u64, sha256: &str) -> Result<Vec<u8>, Failure> {
        let found = self.open(key, false).await?;
        // Before memory is allocated.
        let size = usize::try_from(size).ok().filter(|_| found.meta.size == size);
        let size = size.ok_or_else(|| self.damaged(key))?;
        let (mut data, mut hash, mut chunks) = (Vec::with_capacity(size), Sha256::new(), found.into_stream());
        while let Some(chunk) = chunks.try_next().await? {
            hash.update(&chunk);
            data.extend_from_slice(&chunk);
        }
        let is_same = data.len() == size && hex(&hash.finalize()) == sha256;
        if is_same { Ok(data) } else { Err(self.damaged(key)) }
    }

    fn damaged(&self, key: &str) -> Failure {
        Failure::Object(ObjectError::Damaged { bucket: self.bucket.clone(), key: key.to_owned() })
    }

    /// Returns the bytes of an object of this size as a stream, without a check of its SHA-256. The first bytes have been read, so
    /// that a missing object is an error of this function. The stream takes as long as its reader, and ends with an error when
    /// the store sends nothing for the time limit of a request.
    pub async fn stream(
        &self,
        key: &str,
        size: u64,
    ) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>, ObjectError> {
        let (first, rest) = self
            .call(ObjectOperation::Get, 0, async {
                let found = self.open(key, false).await?;
                if found.meta.size != size {
                    return Err(self.damaged(key));
                }
                let mut chunks: BoxStream<'static, _> = found.into_stream();
                Ok((chunks.try_next().await?, chunks))
            })
            .await?;
        let limit = self.timeout;
        let rest = stream::try_unfold(rest, move |mut rest| async move {
            match timeout(limit, rest.try_next()).await {
                Ok(chunk) => Ok(chunk.map_err(io::Error::other)?.map(|chunk| (chunk, rest))),
                Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
            }
        });
        Ok(stream::iter(first.map(Ok)).chain(rest))
    }

    /// Returns the size of an object; `None` if it does not exist.
    pub async fn size(&self, key: &str) -> Result<Option<u64>, ObjectError> {
        let found = self.call(ObjectOperation::Head, 0, async { Ok(self.open(key, true).await?.meta.size) }).await;
        match found {
            Ok(size) => Ok(Some(size)),
            Err(ObjectError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes an object. It need not exist.
    pub async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        self.call(ObjectOperation::Delete, 0, self.delete_now(key)).await
    }

    async fn delete_now(&self, key: &str) -> Result<(), Failure> {
        let path = path(key)?;
        let keys = stream::once(async move { Ok(path) }).boxed();
        match self.store.delete_stream(keys).try_next().await {
            // Some services report an object that does not exist.
            Err(object_store::Error::NotFound { source, .. }) if !is_about_bucket(&source.to_string()) => Ok(()),
            result => Ok(result.map(drop)?),
        }
    }

    /// Stores, reads and deletes an object, to check the configuration. Returns what failed.
    pub async fn probe(&self, now: DateTime<Utc>) -> Result<(), String> {
        let data = Bytes::from_static(b"Postrider checks whether it can store, read and delete objects.");
        let sha256 = hex(&Sha256::digest(&data));
        let key = self.new_key(&sha256, now);
        self.step("store", self.put_now(&key, data.clone())).await?;
        let read = self.step("read", self.get_now(&key, data.len() as u64, &sha256)).await;
        let deleted = self.step("delete", self.delete_now(&key)).await;
        read.map(drop).and(deleted)
    }

    /// Runs a step of the probe.
    async fn step<T>(&self, what: &str, call: impl Future<Output = Result<T, Failure>>) -> Result<T, String> {
        let reason = match timeout(self.timeout, call).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(Failure::Object(error))) => error.to_string(),
            Ok(Err(Failure::Store(failure))) => summary(&failure),
            Err(_) => format!("no response within {:?}", self.timeout),
        };
        Err(format!("cannot {what} an object: {reason}"))
    }

    /// Requests an object, or only its head.
    async fn open(&self, key: &str, head: bool) -> Result<object_store::GetResult, Failure> {
        let options = GetOptions { head, ..GetOptions::default() };
        self.store.get_opts(&path(key)?, options).await.map_err(|error| match error {
            // Some services name the fault only in the body: if the bucket is missing, no object is.
            object_store::Error::NotFound { source, .. } if !is_about_bucket(&source.to_string()) => {
                Failure::Object(ObjectError::Missing { bucket: self.bucket.clone(), key: key.to_owned() })
            }
            error => error.into(),
        })
    }

    /// Runs a call about this many bytes with its time limit, and records how it ended.
    async fn call<T>(
        &self,
        operation: ObjectOperation,
        size: u64,
        call: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, ObjectError> {
        let started = Instant::now();
        let limit = self.timeout + Duration::from_secs(size / BYTES_PER_SECOND);
        let result = match timeout(self.timeout, self.slots.acquire()).await {
            Err(_) | Ok(Err(_)) => Err(Failure::Store("too many requests wait for the object store".into())),
            Ok(Ok(_slot)) => {
                let _probe = self.admit().inspect_err(|_| {
                    METRICS.object_requests.get((operation, ObjectResult::Skipped)).increment(1);
                })?;
                match timeout(limit, call).await {
                    Ok(result) => result,
                    Err(_) => Err(Failure::Store(format!("no response within {limit:?}"))),
                }
            }
        };
        METRICS.object_request.get((operation,)).record(started.elapsed());
        let (label, result) = match result {
            Ok(done) => (ObjectResult::Ok, Ok(done)),
            Err(Failure::Object(error)) => (ObjectResult::Missing, Err(error)),
            Err(Failure::Store(failure)) => {
                *self.failed_at.lock() = Some(Instant::now());
                self.log(&failure);
                (ObjectResult::Failed, Err(ObjectError::Unavailable))
            }
        };
        if !matches!(label, ObjectResult::Failed) {
            *self.failed_at.lock() = None;
        }
        METRICS.object_requests.get((operation, label)).increment(1);
        result
    }

    /// Decides whether a request is sent. While the store fails, it needs one of a few permits.
    fn admit(&self) -> Result<Option<SemaphorePermit<'_>>, ObjectError> {
        let failed_at = *self.failed_at.lock();
        match failed_at {
            None => Ok(None),
            Some(at) if at.elapsed() < FAIL_FAST => Err(ObjectError::Unavailable),
            Some(_) => self.probes.try_acquire().map(Some).map_err(|_| ObjectError::Unavailable),
        }
    }

    fn log(&self, failure: &str) {
        let Some(failures) = self.failures.note(Instant::now()) else { return };
        let error = summary(failure);
        tracing::warn!(
            event = "object_storage_unavailable",
            error,
            failures,
            bucket = self.bucket,
            "a request to the object store failed; messages with attachments in it wait or are refused with 503"
        );
    }
}

/// Why the client cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum ObjectStorageError {
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[source] rustls::Error),
    /// The bucket cannot be part of the endpoint's host name.
    #[error("attachments.endpoint and attachments.bucket make no host name; set attachments.path_style to true")]
    Endpoint,
    /// There are no credentials.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// Another setting is not valid.
    #[error(transparent)]
    Store(#[from] object_store::Error),
}

/// The bucket of a process, if one is configured.
pub type Objects = Option<Arc<ObjectStorage>>;

fn path(key: &str) -> Result<Path, Failure> {
    Path::parse(key).map_err(|error| Failure::Store(error.to_string()))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn storage(endpoint: &str, path_style: bool) -> Result<ObjectStorage, ObjectStorageError> {
        ObjectStorage::new(Settings {
            bucket: "files".into(),
            endpoint: Some(endpoint.parse().unwrap()),
            region: "us-east-1".into(),
            credentials: Credentials::Static(AccessKey {
                id: "id".into(),
                secret: "secret".to_owned().into(),
                session_token: None,
            }),
            prefix: "postrider/".into(),
            path_style,
            threshold: 10,
            timeout: Duration::from_secs(1),
        })
    }

    #[test]
    fn every_object_has_a_key_of_its_own() {
        let storage = storage("http://127.0.0.1:9", true).unwrap();
        let [one, two] = [0, 0].map(|_| storage.new_key("ab", DateTime::UNIX_EPOCH));
        assert!(one.starts_with("postrider/ab-") && two.starts_with("postrider/ab-"));
        assert_ne!(one, two);
        assert!(storage.is_above_threshold(11) && !storage.is_above_threshold(10));
    }

    #[test]
    fn bucket_is_no_part_of_an_address() {
        assert!(matches!(storage("http://127.0.0.1:9", false), Err(ObjectStorageError::Endpoint)));
        assert!(storage("https://s3.example.test", false).is_ok());
    }

    #[tokio::test]
    async fn few_requests_wait_while_the_store_fails() {
        let storage = storage("http://127.0.0.1:9", true).unwrap();
        let skipped = Some(Err(ObjectError::Unavailable));
        *storage.failed_at.lock() = Some(Instant::now());
        assert_eq!(storage.delete("a").now_or_never(), skipped, "one has just failed");
        *storage.failed_at.lock() = Some(Instant::now() - FAIL_FAST);
        let mut probes: Vec<_> = (0..PROBES).map(|_| Box::pin(storage.delete("a"))).collect();
        for probe in &mut probes {
            assert_eq!(probe.as_mut().now_or_never(), None, "it is sent");
        }
        assert_eq!(storage.delete("a").now_or_never(), skipped, "enough are sent");
        drop(probes);
        assert_eq!(storage.delete("a").now_or_never(), None, "canceled requests do not count");
    }
}
