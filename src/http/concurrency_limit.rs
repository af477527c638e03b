//! Concurrency limits for slow requests, in total and per key or tenant, with a bounded wait: slow requests must not use up
//! the database connections that accept messages, and one key or tenant must not use up the limit.

use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use super::ApiError;
use crate::domain::id::KeyId;
use crate::limiter::{KeyedPermit, KeyedSemaphore};

/// How many requests may run at once, and how long further ones wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct LimitSettings {
    total: usize,
    per_key: usize,
    wait: Duration,
    /// The `detail` of the error after that wait.
    refusal: &'static str,
}

/// The limit for expensive queries.
pub(super) const SLOW_QUERIES: LimitSettings = LimitSettings {
    total: 4,
    per_key: 2,
    wait: Duration::from_secs(5),
    refusal: "Too many slow queries at once. Retry the request, or narrow the query.",
};

/// The limit for compiling and rendering templates. One template keeps a processor busy for up to 100 ms, the templates
/// of a batch for some seconds.
pub(super) const RENDERS: LimitSettings = LimitSettings {
    total: 8,
    per_key: 6,
    wait: Duration::from_secs(10),
    refusal: "Too many templates are being rendered at once. Nothing was changed; retry the request.",
};

/// How many renders a batch counts as: two batches may run at once, even with the same key. Each may render 64 MiB.
pub(super) const RENDERS_OF_BATCH: u32 = 3;

/// The limit for files that are downloaded, in total and per tenant. Each takes up to 3 MiB of memory: a chunk of 1 MiB,
/// and its copies in the statement that stores it. The file's server decides how long that is, so one tenant gets only a
/// small part of the limit.
pub(super) const DOWNLOADS: LimitSettings = LimitSettings {
    total: 32,
    per_key: 8,
    wait: Duration::from_secs(10),
    refusal: "Too many attachments are being downloaded at once. Nothing was changed; retry the request.",
};

/// The limit for requests whose duration the client decides: event streams, long polls and exports.
pub(super) const LONG_REQUESTS: LimitSettings = LimitSettings {
    total: 400,
    per_key: 100,
    wait: Duration::ZERO,
    refusal: "Too many event streams, long polls and exports at once. Close some, or retry later.",
};

/// The concurrency limit of one kind of request, per API key or by another `K`. Clones share the limit.
#[derive(Debug, Clone)]
pub(super) struct ConcurrencyLimit<K = KeyId> {
    settings: LimitSettings,
    requests: Arc<KeyedSemaphore<K>>,
}

/// The permission of an API key to run one request, until dropped.
pub(super) type ConcurrencyPermit = KeyedPermit<KeyId>;

impl<K: Hash + Eq + Copy> ConcurrencyLimit<K> {
    pub(super) fn new(settings: LimitSettings) -> Self {
        Self { requests: KeyedSemaphore::new(settings.total, settings.per_key), settings }
    }

    /// Waits until a request of this key may run.
    pub(super) async fn acquire(&self, key: K) -> Result<KeyedPermit<K>, ApiError> {
        self.acquire_many(key, 1).await
    }

    /// Waits until a request of this key may run that counts as `weight` requests.
    pub(super) async fn acquire_many(&self, key: K, weight: u32) -> Result<KeyedPermit<K>, ApiError> {
        match tokio::time::timeout(self.settings.wait, self.requests.acquire(Some(key), weight)).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(ApiError::Unavailable(self.settings.refusal)),
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn requests_beyond_the_limit_are_refused() {
        let limit = ConcurrencyLimit::new(LimitSettings { wait: Duration::ZERO, ..SLOW_QUERIES });
        let [one, two, three] = [1, 2, 3].map(|n| KeyId(Uuid::from_u128(n)));
        let mut running = vec![limit.acquire(one).await.unwrap(), limit.acquire(one).await.unwrap()];
        assert!(matches!(limit.acquire(one).await, Err(ApiError::Unavailable(_))), "the key is at its limit");
        running.extend([limit.acquire(two).await.unwrap(), limit.acquire(two).await.unwrap()]);
        assert!(limit.acquire(three).await.is_err(), "the wait is bounded");
        running.truncate(3);
        assert!(limit.acquire(three).await.is_ok());
    }
}
