//! Concurrency limits for slow requests, in total, per tenant and per key, with a bounded wait: slow requests must not use
//! up the database connections that accept messages, and neither one key nor one tenant must use up the limit.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{AcquireError, Semaphore};

use crate::domain::id::{KeyId, TenantId};
use crate::http::ApiError;
use crate::http::auth::Requester;
use crate::limiter::{KeyedPermit, KeyedSemaphore};

/// How many requests may run at once, and how long further ones wait.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct LimitSettings {
    total: usize,
    per_tenant: usize,
    per_key: usize,
    wait: Duration,
    /// The `detail` of the error after that wait.
    refusal: &'static str,
}

/// The limit for expensive queries.
pub(in crate::http) const SLOW_QUERIES: LimitSettings = LimitSettings {
    total: 4,
    per_tenant: 3,
    per_key: 2,
    wait: Duration::from_secs(5),
    refusal: "Too many slow queries at once. Retry the request, or narrow the query.",
};

/// The limit for compiling and rendering templates. One template keeps a processor busy for up to 100 ms, the templates
/// of a batch for some seconds.
pub(in crate::http) const RENDERS: LimitSettings = LimitSettings {
    total: 8,
    per_tenant: 7,
    per_key: 6,
    wait: Duration::from_secs(10),
    refusal: "Too many templates are being rendered at once. Nothing was changed; retry the request.",
};

/// How many renders a batch counts as: two batches may run at once, even with the same key. Each may render 64 MiB.
pub(in crate::http) const RENDERS_OF_BATCH: u32 = 3;

/// The limit for files that are downloaded. Each takes up to 3 MiB of memory: a chunk of 1 MiB, and its copies in the
/// statement that stores it. The file's server decides how long that is, so one tenant gets only a small part of the limit.
pub(in crate::http) const DOWNLOADS: LimitSettings = LimitSettings {
    total: 32,
    per_tenant: 8,
    per_key: 8,
    wait: Duration::from_secs(10),
    refusal: "Too many attachments are being downloaded at once. Nothing was changed; retry the request.",
};

/// The limit for requests whose duration the client decides: event streams, long polls and exports.
pub(in crate::http) const LONG_REQUESTS: LimitSettings = LimitSettings {
    total: 400,
    per_tenant: 300,
    per_key: 100,
    wait: Duration::ZERO,
    refusal: "Too many event streams, long polls and exports at once. Close some, or retry later.",
};

/// The concurrency limit of one kind of request. Clones share the limit.
#[derive(Debug, Clone)]
pub(in crate::http) struct ConcurrencyLimit {
    settings: LimitSettings,
    tenants: Arc<KeyedSemaphore<TenantId>>,
    /// Limits only the requests of each key: its total is never reached.
    keys: Arc<KeyedSemaphore<KeyId>>,
}

/// The permission to run one request, until dropped.
#[derive(Debug)]
pub(in crate::http) struct ConcurrencyPermit {
    _tenant: KeyedPermit<TenantId>,
    _key: KeyedPermit<KeyId>,
}

impl ConcurrencyLimit {
    pub(in crate::http) fn new(settings: LimitSettings) -> Self {
        let LimitSettings { total, per_tenant, per_key, .. } = settings;
        Self {
            settings,
            tenants: KeyedSemaphore::new(total, per_tenant),
            keys: KeyedSemaphore::new(Semaphore::MAX_PERMITS, per_key),
        }
    }

    /// Waits until a request of this requester may run.
    pub(in crate::http) async fn acquire(&self, requester: Requester) -> Result<ConcurrencyPermit, ApiError> {
        self.acquire_many(requester, 1).await
    }

    /// Waits until a request of this requester may run that counts as `weight` requests. A key that waits for its own
    /// permits takes none of its tenant, and a tenant that waits takes none of the total.
    pub(in crate::http) async fn acquire_many(
        &self,
        requester: Requester,
        weight: u32,
    ) -> Result<ConcurrencyPermit, ApiError> {
        let acquire = async {
            let key = self.keys.acquire(Some(requester.key), weight).await?;
            let tenant = self.tenants.acquire(Some(requester.tenant), weight).await?;
            Ok::<_, AcquireError>(ConcurrencyPermit { _tenant: tenant, _key: key })
        };
        match tokio::time::timeout(self.settings.wait, acquire).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(ApiError::Unavailable(self.settings.refusal)),
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn requester(tenant: u128, key: u128) -> Requester {
        Requester { tenant: TenantId(Uuid::from_u128(tenant)), key: KeyId(Uuid::from_u128(key)) }
    }

    fn slow_queries() -> ConcurrencyLimit {
        ConcurrencyLimit::new(LimitSettings { wait: Duration::ZERO, ..SLOW_QUERIES })
    }

    #[tokio::test]
    async fn requests_beyond_the_limit_are_refused() {
        let limit = slow_queries();
        let [one, two, three] = [1, 2, 3].map(|n| requester(n, n));
        let mut running = vec![limit.acquire(one).await.unwrap(), limit.acquire(one).await.unwrap()];
        assert!(matches!(limit.acquire(one).await, Err(ApiError::Unavailable(_))), "the key is at its limit");
        running.extend([limit.acquire(two).await.unwrap(), limit.acquire(two).await.unwrap()]);
        assert!(limit.acquire(three).await.is_err(), "the wait is bounded");
        running.truncate(3);
        assert!(limit.acquire(three).await.is_ok());
    }

    #[tokio::test]
    async fn keys_of_one_tenant_leave_permits_to_others() {
        let limit = slow_queries();
        let mut running = Vec::new();
        for key in 1..=5 {
            running.extend(limit.acquire(requester(1, key)).await);
        }
        assert_eq!(running.len(), 3, "the tenant is at its limit");
        let other = limit.acquire(requester(2, 6)).await;
        assert!(other.is_ok(), "another tenant is not");
        running.truncate(2);
        assert!(limit.acquire(requester(1, 5)).await.is_ok());
    }

    #[tokio::test]
    async fn heavy_requests_of_one_tenant_leave_permits_to_others() {
        let limit = ConcurrencyLimit::new(LimitSettings { wait: Duration::ZERO, ..RENDERS });
        let batches = [
            limit.acquire_many(requester(1, 1), RENDERS_OF_BATCH).await,
            limit.acquire_many(requester(1, 1), RENDERS_OF_BATCH).await,
        ];
        assert!(batches.iter().all(Result::is_ok), "two batches of one key may run at once");
        let others = [limit.acquire(requester(1, 2)).await, limit.acquire(requester(2, 3)).await];
        assert!(others.iter().all(Result::is_ok));
        assert!(limit.acquire(requester(1, 4)).await.is_err());
    }
}
