//! When to try again and when to give up, stream by stream, and for how long lanes and streams were paused meanwhile; read at
//! most every few seconds.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::clock::Clock;
use crate::db::pauses::{self, Pauses};
use crate::db::retry_policies::{self, RetryRow};
use crate::db::{Db, DbError};
use crate::domain::retry::Policy;

/// How old an answer may be.
const FRESH: TimeDelta = TimeDelta::seconds(2);

/// Of each tenant, the streams that have a policy of their own.
type Streams = HashMap<Uuid, HashMap<String, Arc<Policy>>>;

/// What is known.
#[derive(Debug)]
pub(super) struct Policies {
    /// As configured.
    usual: Arc<Policy>,
    known: RwLock<Known>,
}

/// The database's last answer.
#[derive(Debug)]
struct Known {
    asked_at: DateTime<Utc>,
    streams: Streams,
    pauses: Arc<Pauses>,
}

impl Known {
    fn is_fresh(&self, now: DateTime<Utc>) -> bool {
        (now - self.asked_at).abs() < FRESH
    }

    fn policy<'a>(&'a self, usual: &'a Arc<Policy>, (tenant, stream): (Uuid, &str)) -> &'a Arc<Policy> {
        self.streams.get(&tenant).and_then(|streams| streams.get(stream)).unwrap_or(usual)
    }
}

impl Policies {
    /// Asks for the first time. Without an answer no worker starts: mail of a stream that is tried for longer than usual
    /// would expire too early.
    pub(super) async fn load(db: &Db, usual: Policy, now: DateTime<Utc>) -> Result<Self, DbError> {
        let streams = read(&usual, retry_policies::all(db).await?);
        let known = Known { asked_at: now, streams, pauses: Arc::new(pauses::all(db, now).await?) };
        Ok(Self { usual: Arc::new(usual), known: RwLock::new(known) })
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks again, where the answer is old. While the database is away the last one holds.
    pub(super) async fn refresh(&self, db: &Db, now: DateTime<Utc>) {
        // Every mail asks, and nearly always there is nothing to do.
        if self.known().is_fresh(now) {
            return;
        }
        {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            if known.is_fresh(now) {
                return;
            }
            // Before the answer is here, so that one task asks.
            known.asked_at = now;
        }
        match tokio::try_join!(retry_policies::all(db), pauses::all(db, now)) {
            Ok((rows, pauses)) => {
                let streams = read(&self.usual, rows);
                let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
                (known.streams, known.pauses) = (streams, Arc::new(pauses));
            }
            Err(error) => tracing::debug!(%error, "could not ask for the streams' retry policies; the last ones hold"),
        }
    }

    /// The pauses of lanes and streams.
    pub(super) fn pauses(&self) -> Arc<Pauses> {
        self.known().pauses.clone()
    }

    /// The policy of a stream.
    pub(super) fn of(&self, tenant: Uuid, stream: &str) -> Arc<Policy> {
        self.known().policy(&self.usual, (tenant, stream)).clone()
    }

    /// After this no attempt begins at a recipient of a lane and its stream that was first due at `first_due_at`. Asked
    /// several times for every recipient: it reads the clock only where something was paused.
    pub(super) fn deadline(
        &self,
        stream: (Uuid, &str),
        lane: i64,
        first_due_at: DateTime<Utc>,
        expires_at: Option<DateTime<Utc>>,
        clock: &dyn Clock,
    ) -> DateTime<Utc> {
        let known = self.known();
        let stood_still = if known.pauses.is_empty() {
            TimeDelta::zero()
        } else {
            known.pauses.paused_time(stream, lane, first_due_at, clock.now())
        };
        known.policy(&self.usual, stream).deadline(first_due_at + stood_still, expires_at)
    }
}

fn read(usual: &Policy, rows: Vec<RetryRow>) -> Streams {
    let mut streams = Streams::new();
    for row in rows {
        streams.entry(row.tenant_id).or_default().insert(row.stream, Arc::new(usual.with(&row.own)));
    }
    streams
}
