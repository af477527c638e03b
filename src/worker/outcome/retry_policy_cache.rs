//! When to try again and when to give up, stream by stream, and for how long lanes and streams were paused meanwhile; read at
//! most every few seconds.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::db::pauses::{self, Pauses};
use crate::db::retry_policies::{self, RetryRow};
use crate::db::{Db, DbError};
use crate::domain::retry::Policy;

/// How old an answer may be.
const CACHE_TTL: TimeDelta = TimeDelta::seconds(2);

/// Of each tenant, the streams that have a policy of their own.
type Streams = HashMap<Uuid, HashMap<String, Arc<Policy>>>;

/// What is known.
#[derive(Debug)]
pub(crate) struct RetryPolicyCache {
    /// As configured.
    usual: Arc<Policy>,
    known: RwLock<(DateTime<Utc>, Streams)>,
    pauses: RwLock<Arc<Pauses>>,
}

impl RetryPolicyCache {
    /// Asks for the first time. Without an answer no worker starts: mail of a stream that is tried for longer than usual
    /// would expire too early.
    pub(crate) async fn load(db: &Db, usual: Policy, now: DateTime<Utc>) -> Result<Self, DbError> {
        let streams = read(&usual, retry_policies::all(db).await?);
        let pauses = RwLock::new(Arc::new(pauses::all(db, now).await?));
        Ok(Self { usual: Arc::new(usual), known: RwLock::new((now, streams)), pauses })
    }

    /// Asks again, where the answer is old. While the database is away the last one holds.
    pub(crate) async fn refresh(&self, db: &Db, now: DateTime<Utc>) {
        let is_fresh = |known: &(DateTime<Utc>, Streams)| (now - known.0).abs() < CACHE_TTL;
        // Every mail asks, and nearly always there is nothing to do.
        if is_fresh(&self.known.read().unwrap_or_else(PoisonError::into_inner)) {
            return;
        }
        {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            if is_fresh(&known) {
                return;
            }
            // Before the answer is here, so that one task asks.
            known.0 = now;
        }
        match tokio::try_join!(retry_policies::all(db), pauses::all(db, now)) {
            Ok((rows, pauses)) => {
                let streams = read(&self.usual, rows);
                self.known.write().unwrap_or_else(PoisonError::into_inner).1 = streams;
                *self.pauses.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pauses);
            }
            Err(error) => tracing::debug!(%error, "could not ask for the streams' retry policies; the last ones hold"),
        }
    }

    /// The pauses of lanes and streams.
    pub(crate) fn pauses(&self) -> Arc<Pauses> {
        self.pauses.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The policy of a stream.
    pub(crate) fn of(&self, tenant: Uuid, stream: &str) -> Arc<Policy> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.1.get(&tenant).and_then(|streams| streams.get(stream)).unwrap_or(&self.usual).clone()
    }
}

fn read(usual: &Policy, rows: Vec<RetryRow>) -> Streams {
    let mut streams = Streams::new();
    for row in rows {
        streams.entry(row.tenant_id).or_default().insert(row.stream, Arc::new(usual.with(&row.own)));
    }
    streams
}
