//! Caches the retry policies of streams, and the pauses of lanes and streams: the retry window is suspended during a
//! pause, so a deadline depends on both.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::{RwLock, RwLockReadGuard};
use uuid::Uuid;

use crate::clock::Clock;
use crate::db::lanes::pauses::{self, Pauses};
use crate::db::streams::retry_policies::{self, RetryRow};
use crate::db::{Db, DbError};
use crate::domain::delivery::retry::Policy;

/// Cache TTL.
const CACHE_TTL: TimeDelta = TimeDelta::seconds(2);

/// The streams of each tenant that have their own policy.
type Streams = HashMap<Uuid, HashMap<String, Arc<Policy>>>;

/// The cache of retry policies and pauses.
#[derive(Debug)]
pub(crate) struct RetryPolicyCache {
    /// The configured policy.
    default: Arc<Policy>,
    cached: RwLock<Cached>,
}

/// The values that were last read.
#[derive(Debug)]
struct Cached {
    refreshed_at: DateTime<Utc>,
    streams: Streams,
    pauses: Arc<Pauses>,
}

impl Cached {
    fn is_fresh(&self, now: DateTime<Utc>) -> bool {
        (now - self.refreshed_at).abs() < CACHE_TTL
    }

    fn policy<'a>(&'a self, default: &'a Arc<Policy>, (tenant, stream): (Uuid, &str)) -> &'a Arc<Policy> {
        self.streams.get(&tenant).and_then(|streams| streams.get(stream)).unwrap_or(default)
    }
}

impl RetryPolicyCache {
    /// Reads the policies for the first time. Without them no worker starts, because messages of a stream with a longer
    /// retry window would expire too early.
    pub(crate) async fn load(db: &Db, default: Policy, now: DateTime<Utc>) -> Result<Self, DbError> {
        let streams = parse(&default, retry_policies::all(db).await?);
        let cached = Cached { refreshed_at: now, streams, pauses: Arc::new(pauses::all(db, now).await?) };
        Ok(Self { default: Arc::new(default), cached: RwLock::new(cached) })
    }

    fn cached(&self) -> RwLockReadGuard<'_, Cached> {
        self.cached.read()
    }

    /// Reads the policies again when the cache has expired. While the database is unreachable the cached ones remain.
    pub(crate) async fn refresh(&self, db: &Db, now: DateTime<Utc>) {
        // This is called for each message, and nearly always the cache is fresh.
        if self.cached().is_fresh(now) {
            return;
        }
        {
            let mut cached = self.cached.write();
            if cached.is_fresh(now) {
                return;
            }
            // Set before the query, so that only one task runs it.
            cached.refreshed_at = now;
        }
        match tokio::try_join!(retry_policies::all(db), pauses::all(db, now)) {
            Ok((rows, pauses)) => {
                let streams = parse(&self.default, rows);
                let mut cached = self.cached.write();
                (cached.streams, cached.pauses) = (streams, Arc::new(pauses));
            }
            Err(error) => tracing::debug!(
                event = "retry_policies_not_refreshed",
                %error,
                "failed to read retry policies; keeping the cached ones"
            ),
        }
    }

    /// Returns the pauses of lanes and streams.
    pub(crate) fn pauses(&self) -> Arc<Pauses> {
        self.cached().pauses.clone()
    }

    /// Returns the configured policy.
    pub(crate) fn default_policy(&self) -> &Policy {
        &self.default
    }

    /// Returns the policy of a stream.
    pub(crate) fn get(&self, tenant: Uuid, stream: &str) -> Arc<Policy> {
        self.cached().policy(&self.default, (tenant, stream)).clone()
    }

    /// Returns the time after which no attempt starts for a recipient that was first due at `first_due_at`. This is
    /// called several times for every recipient, so the clock is read only if something was paused.
    pub(crate) fn deadline(
        &self,
        stream: (Uuid, &str),
        lane: i64,
        first_due_at: DateTime<Utc>,
        expires_at: Option<DateTime<Utc>>,
        clock: &dyn Clock,
    ) -> DateTime<Utc> {
        let cached = self.cached();
        let paused = if cached.pauses.is_empty() {
            TimeDelta::zero()
        } else {
            cached.pauses.paused_time(stream, lane, first_due_at, clock.now())
        };
        cached.policy(&self.default, stream).deadline(first_due_at + paused, expires_at)
    }
}

fn parse(default: &Policy, rows: Vec<RetryRow>) -> Streams {
    let mut streams = Streams::new();
    for row in rows {
        streams.entry(row.tenant_id).or_default().insert(row.stream, Arc::new(default.with(&row.own)));
    }
    streams
}
