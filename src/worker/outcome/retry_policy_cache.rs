//! The retry policies of streams, and the pauses of lanes and streams.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::db::pauses::{self, Pauses};
use crate::db::retry_policies::{self, RetryRow};
use crate::db::{Db, DbError};
use crate::domain::retry::Policy;

/// Cache TTL.
const CACHE_TTL: TimeDelta = TimeDelta::seconds(2);

/// The streams of each tenant that have a policy of their own.
type Streams = HashMap<Uuid, HashMap<String, Arc<Policy>>>;

/// Caches what the database says.
#[derive(Debug)]
pub(crate) struct RetryPolicyCache {
    /// The configured policy.
    default: Arc<Policy>,
    /// When the cache was refreshed, and with what.
    streams: RwLock<(DateTime<Utc>, Streams)>,
    pauses: RwLock<Arc<Pauses>>,
}

impl RetryPolicyCache {
    /// Reads the policies for the first time. Without them no worker starts: messages of a stream with a longer retry
    /// window would expire too early.
    pub(crate) async fn load(db: &Db, default: Policy, now: DateTime<Utc>) -> Result<Self, DbError> {
        let streams = parse(&default, retry_policies::all(db).await?);
        let pauses = RwLock::new(Arc::new(pauses::all(db, now).await?));
        Ok(Self { default: Arc::new(default), streams: RwLock::new((now, streams)), pauses })
    }

    /// Reads the policies again when the cache has expired. While the database is unreachable the cached ones remain.
    pub(crate) async fn refresh(&self, db: &Db, now: DateTime<Utc>) {
        let is_fresh = |cached: &(DateTime<Utc>, Streams)| (now - cached.0).abs() < CACHE_TTL;
        // Each message calls this, and nearly always there is nothing to do.
        if is_fresh(&self.streams.read().unwrap_or_else(PoisonError::into_inner)) {
            return;
        }
        {
            let mut streams = self.streams.write().unwrap_or_else(PoisonError::into_inner);
            if is_fresh(&streams) {
                return;
            }
            // Before the query, so that one task runs it.
            streams.0 = now;
        }
        match tokio::try_join!(retry_policies::all(db), pauses::all(db, now)) {
            Ok((rows, pauses)) => {
                let streams = parse(&self.default, rows);
                self.streams.write().unwrap_or_else(PoisonError::into_inner).1 = streams;
                *self.pauses.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pauses);
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
        self.pauses.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the configured policy.
    pub(crate) fn default_policy(&self) -> &Policy {
        &self.default
    }

    /// Returns the policy of a stream.
    pub(crate) fn get(&self, tenant: Uuid, stream: &str) -> Arc<Policy> {
        let cached = self.streams.read().unwrap_or_else(PoisonError::into_inner);
        cached.1.get(&tenant).and_then(|streams| streams.get(stream)).unwrap_or(&self.default).clone()
    }
}

fn parse(default: &Policy, rows: Vec<RetryRow>) -> Streams {
    let mut streams = Streams::new();
    for row in rows {
        streams.entry(row.tenant_id).or_default().insert(row.stream, Arc::new(default.with(&row.own)));
    }
    streams
}
