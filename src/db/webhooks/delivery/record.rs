//! Records a worker's progress on an endpoint in one transaction.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Endpoint, Retry, Row};
use crate::db::events::{self, NewEvent};
use crate::db::{Db, DbError};
use crate::domain::id::EndpointId;
use crate::domain::outcome::{Outcome, Peer, Reply, Stage, Verdict};

/// A delivery attempt, for the log.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// `UUIDv7` with its start time.
    pub id: Uuid,
    /// `seq` of its first event.
    pub seq: i64,
    /// Number of events.
    pub events: i16,
    /// Number of the delivery attempt, starting at 1.
    pub number: i16,
    /// Bytes of the request body.
    pub size: i32,
    /// HTTP status of the response.
    pub status: Option<i16>,
    /// Start of the response body.
    pub response_body: Option<String>,
    /// Why there was no response, or why the response is a failure.
    pub error: Option<String>,
    /// Duration in milliseconds.
    pub duration_ms: i32,
    /// When the next delivery attempt is due.
    pub next_attempt_at: Option<DateTime<Utc>>,
}

/// A worker's progress on an endpoint since the last record.
#[derive(Debug, Default, Clone)]
pub struct Progress {
    /// Delivery attempts made.
    pub attempts: Vec<Attempt>,
    /// Deliveries to retry, by the `seq` of their first event.
    pub retries: BTreeMap<i64, Retry>,
    /// Deliveries that need no further attempt, by the `seq` of their first event.
    pub settled: Vec<i64>,
    /// Whether a post to an endpoint that was down succeeded; all pending retries are then due now.
    pub is_back: bool,
    /// Why the endpoint is to be disabled.
    pub disabled: Option<String>,
}

impl Progress {
    /// Returns whether there is nothing to record.
    pub fn is_empty(&self) -> bool {
        self.attempts.is_empty() && self.settled.is_empty()
    }
}

/// Whether to keep the lease after recording progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// The worker keeps the lease.
    Keep,
    /// The lease is released.
    Release,
}

/// Records progress in one transaction: the cursor, the endpoint's health, retries and the log. Returns the updated
/// endpoint; `None`, with nothing recorded, if the worker has lost the lease.
pub async fn record(
    db: &Db,
    worker: Uuid,
    endpoint: &Endpoint,
    progress: &Progress,
    hold: Hold,
    now: DateTime<Utc>,
) -> Result<Option<Endpoint>, DbError> {
    db.timed("webhooks.delivery.record", async {
        let mut tx = db.pool.begin().await?;
        let Some(mut after) = advance(&mut tx, worker, endpoint, progress, hold, now).await? else {
            return Ok(None);
        };
        let has_retry_changes = !progress.retries.is_empty() || !progress.settled.is_empty();
        if progress.is_back {
            make_due(&mut tx, endpoint.id, now).await?;
        }
        if has_retry_changes {
            settle(&mut tx, endpoint.id, &progress.settled).await?;
            reschedule(&mut tx, endpoint, &progress.retries).await?;
            after.retries = count(&mut tx, endpoint.id).await?;
        }
        let is_first_time = log(&mut tx, endpoint, &progress.attempts).await?;
        if let Some(reason) = progress.disabled.as_ref().filter(|_| is_first_time) {
            let outcome = outcome(reason);
            let event = NewEvent::webhook_disabled(endpoint.tenant, endpoint.id, &outcome);
            events::append(&mut tx, now, vec![event]).await?;
        }
        tx.commit().await?;
        Ok(Some(after))
    })
    .await
}

async fn advance(
    connection: &mut PgConnection,
    worker: Uuid,
    endpoint: &Endpoint,
    progress: &Progress,
    hold: Hold,
    now: DateTime<Utc>,
) -> Result<Option<Endpoint>, sqlx::Error> {
    let health = &endpoint.health;
    let row = sqlx::query_as!(
        Row,
        r#"UPDATE webhook_endpoints e SET cursor = $3 /* cursor */, failures = $4 /* failures */,
               failing_since = $5 /* failing_since */, last_error = $6 /* last_error */,
               last_success_at = $7 /* last_success_at */, open_at = coalesce($8 /* open_at */, open_at),
               lease = CASE WHEN $9 /* Keep */ THEN lease END,
               disabled_at = CASE WHEN $10::text /* disabled */ IS NOT NULL THEN $11::timestamptz /* now */
                             ELSE disabled_at END,
               disabled_reason = coalesce($10, disabled_reason)
           WHERE id = $1 /* endpoint.id */ AND lease = $2 /* worker */
           RETURNING id, tenant_id, url, events, secret, old_secret, old_secret_until, concurrency, rate, batch, format,
                     cursor,
                     nullif(open_at, '-infinity') AS open_at, failing_since, failures, last_error, last_success_at,
                     $12::bigint /* retries */ AS "retries!""#,
        endpoint.id.0,
        worker,
        endpoint.cursor,
        i32::try_from(health.failures).unwrap_or(i32::MAX),
        health.failing_since,
        health.last_error,
        health.last_success_at,
        health.open_at,
        hold == Hold::Keep,
        progress.disabled,
        now,
        endpoint.retries
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(Endpoint::from))
}

async fn make_due(connection: &mut PgConnection, endpoint: EndpointId, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query!("UPDATE webhook_retries SET due_at = $2 WHERE endpoint_id = $1 AND due_at > $2", endpoint.0, now)
        .execute(connection)
        .await
        .map(|_| ())
}

async fn settle(connection: &mut PgConnection, endpoint: EndpointId, posts: &[i64]) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM webhook_retries WHERE endpoint_id = $1 AND seq = ANY ($2)", endpoint.0, posts)
        .execute(connection)
        .await
        .map(|_| ())
}

async fn reschedule(
    connection: &mut PgConnection,
    endpoint: &Endpoint,
    retries: &BTreeMap<i64, Retry>,
) -> Result<(), sqlx::Error> {
    for (seq, retry) in retries {
        sqlx::query!(
            "INSERT INTO webhook_retries (endpoint_id, tenant_id, seq, seqs, attempts, due_at)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (endpoint_id, seq, tenant_id)
             DO UPDATE SET seqs = excluded.seqs, attempts = excluded.attempts, due_at = excluded.due_at",
            endpoint.id.0,
            endpoint.tenant.0,
            seq,
            &retry.seqs,
            retry.attempts,
            retry.due_at
        )
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

async fn count(connection: &mut PgConnection, endpoint: EndpointId) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM webhook_retries WHERE endpoint_id = $1"#, endpoint.0)
        .fetch_one(connection)
        .await
}

/// Logs delivery attempts. Returns `false` if they are in the log already, because an earlier commit succeeded although
/// its response was lost.
async fn log(connection: &mut PgConnection, endpoint: &Endpoint, attempts: &[Attempt]) -> Result<bool, sqlx::Error> {
    if attempts.is_empty() {
        return Ok(true);
    }
    let post = AttemptColumns::new(attempts);
    sqlx::query!(
        "INSERT INTO webhook_attempts (id, tenant_id, endpoint_id, seq, events, attempt, size, status, answer, error,
                                       duration_ms, next_attempt_at)
         SELECT a.id, $1 /* tenant */, $2 /* endpoint.id */, a.seq, a.events, a.number, a.size, a.status, a.answer, a.error,
                a.duration_ms, a.next_attempt_at
         FROM unnest($3::uuid[], $4::bigint[], $5::smallint[], $6::smallint[], $7::integer[], $8::smallint[],
                     $9::text[], $10::text[], $11::integer[], $12::timestamptz[])
                AS a (id, seq, events, number, size, status,
                      answer, error, duration_ms, next_attempt_at)
         ON CONFLICT (id, tenant_id) DO NOTHING",
        endpoint.tenant.0,
        endpoint.id.0,
        &post.id,
        &post.seq,
        &post.events,
        &post.number,
        &post.size,
        &post.status as _,
        &post.answer as _,
        &post.error as _,
        &post.duration_ms,
        &post.next_attempt_at as _
    )
    .execute(connection)
    .await
    .map(|done| done.rows_affected() > 0)
}

/// Delivery attempts as columns, in the order of the statement's parameters.
struct AttemptColumns<'a> {
    id: Vec<Uuid>,
    seq: Vec<i64>,
    events: Vec<i16>,
    number: Vec<i16>,
    size: Vec<i32>,
    status: Vec<Option<i16>>,
    answer: Vec<Option<&'a str>>,
    error: Vec<Option<&'a str>>,
    duration_ms: Vec<i32>,
    next_attempt_at: Vec<Option<DateTime<Utc>>>,
}

impl<'a> AttemptColumns<'a> {
    fn new(attempts: &'a [Attempt]) -> Self {
        Self {
            id: attempts.iter().map(|attempt| attempt.id).collect(),
            seq: attempts.iter().map(|attempt| attempt.seq).collect(),
            events: attempts.iter().map(|attempt| attempt.events).collect(),
            number: attempts.iter().map(|attempt| attempt.number).collect(),
            size: attempts.iter().map(|attempt| attempt.size).collect(),
            status: attempts.iter().map(|attempt| attempt.status).collect(),
            answer: attempts.iter().map(|attempt| attempt.response_body.as_deref()).collect(),
            error: attempts.iter().map(|attempt| attempt.error.as_deref()).collect(),
            duration_ms: attempts.iter().map(|attempt| attempt.duration_ms).collect(),
            next_attempt_at: attempts.iter().map(|attempt| attempt.next_attempt_at).collect(),
        }
    }
}

/// Returns the outcome that the event contains, with the reason for disabling the endpoint as its reply.
fn outcome(reason: &str) -> Outcome {
    Outcome {
        verdict: Verdict::Permanent,
        reply: Reply::local_error(reason),
        peer: Peer::default(),
        duration: Duration::ZERO,
        stage: Stage::Connect,
    }
}
