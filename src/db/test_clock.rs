//! Moves the times of a tenant's test data back, which has the effect of a clock that is set forward.
//!
//! Moves whatever is due later or expires: queued recipients with their messages, bulks that are not messages yet, bounces and
//! complaints of the simulator, webhook retries, and what rate limits and pauses have recorded. The past stays as it is:
//! events, attempts and times of acceptance. Recipients that are leased do not move, because their attempt has begun.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Db, DbError};
use crate::domain::id::TenantId;

/// Maximum number of recipients, and of follow-ups and webhook deliveries, that one call moves. All of them move in one
/// transaction, so that no worker sees some that have moved and others that have not.
pub const MAX_MOVED: u64 = 20_000;

/// What was moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Recipients in the queue.
    pub recipients: u64,
    /// Bounces, complaints, automatic replies and unsubscriptions that the simulator plays later.
    pub followups: u64,
    /// Webhook deliveries that wait for a retry.
    pub webhook_deliveries: u64,
}

/// How far the data of a test tenant is moved back.
#[derive(Debug, Clone, Copy)]
struct Shift {
    tenant: Uuid,
    by: TimeDelta,
    now: DateTime<Utc>,
}

/// Moves the times of the test data of `tenant` back. Returns `None`, and moves nothing, if there is more of it than
/// [`MAX_MOVED`]. Never changes live data.
pub async fn advance(db: &Db, tenant: TenantId, by: TimeDelta, now: DateTime<Utc>) -> Result<Option<Moved>, DbError> {
    let shift = Shift { tenant: tenant.test().0, by, now };
    db.timed("test_clock.advance", async {
        let mut tx = db.pool.begin().await?;
        // Other calls for the same tenant wait, because they lock the same rows.
        sqlx::query!("SELECT FROM tenants WHERE id = $1 FOR NO KEY UPDATE", shift.tenant).execute(&mut *tx).await?;
        move_bulks(&mut tx, shift).await?;
        let moved = Moved {
            recipients: move_queue(&mut tx, shift).await?,
            followups: move_followups(&mut tx, shift).await?,
            webhook_deliveries: move_webhooks(&mut tx, shift).await?,
        };
        if moved.recipients.max(moved.followups).max(moved.webhook_deliveries) > MAX_MOVED {
            return Ok(None);
        }
        move_limits(&mut tx, shift).await?;
        tx.commit().await?;
        Ok(Some(moved))
    })
    .await
}

/// Returns the `LIMIT` of the statements. With one row more than allowed, they show that there is too much.
fn limit() -> i64 {
    i64::try_from(MAX_MOVED + 1).unwrap_or(i64::MAX)
}

/// Moves the bulks of which some recipients are not messages yet. A pause that has not ended becomes longer, so that it does
/// not count towards the retry window.
async fn move_bulks(connection: &mut PgConnection, Shift { tenant, by, .. }: Shift) -> Result<(), sqlx::Error> {
    let query = sqlx::query!(
        "WITH locked AS MATERIALIZED (
             SELECT id FROM bulks b
             WHERE tenant_id = $1 AND (state = 'paused' OR EXISTS (SELECT FROM bulk_recipients r WHERE r.bulk_id = b.id))
             ORDER BY id FOR NO KEY UPDATE OF b)
         UPDATE bulks b SET
             scheduled_at = moved_back(scheduled_at, $2),
             state_changed_at = CASE WHEN state = 'paused' THEN moved_back(state_changed_at, $2) ELSE state_changed_at END,
             message = CASE WHEN message ->> 'expires_at' IS NULL THEN message ELSE
                 jsonb_set(message, '{expires_at}', to_jsonb(moved_back((message ->> 'expires_at')::timestamptz, $2))) END
         FROM locked WHERE b.tenant_id = $1 AND b.id = locked.id",
        tenant,
        by as _
    );
    query.execute(connection).await.map(drop)
}

/// Moves the recipients in the queue that are not leased, and the times of their messages. Returns how many.
async fn move_queue(connection: &mut PgConnection, Shift { tenant, by, now }: Shift) -> Result<u64, sqlx::Error> {
    let mut messages = sqlx::query_scalar!(
        "WITH waiting AS MATERIALIZED (
             SELECT q.message_id, q.recipient_id FROM lanes l
             JOIN queue q ON q.lane_id = l.id AND q.tenant_id = l.tenant_id
             WHERE l.tenant_id = $1 AND q.lease IS NULL
             ORDER BY q.message_id, q.recipient_id LIMIT $3 FOR UPDATE OF q)
         UPDATE queue q SET
             due_at = moved_back(q.due_at, $2),
             first_due_at = moved_back(q.first_due_at, $2),
             expires_at = moved_back(q.expires_at, $2),
             preparation_failed_at = moved_back(q.preparation_failed_at, $2)
         FROM waiting w
         WHERE q.message_id = w.message_id AND q.recipient_id = w.recipient_id AND q.tenant_id = $1
         RETURNING q.message_id",
        tenant,
        by as _,
        limit()
    )
    .fetch_all(&mut *connection)
    .await?;
    let moved = messages.len() as u64;
    messages.sort_unstable();
    messages.dedup();
    // A message keeps a scheduled_at that has passed, from which its Date header is made. The range excludes the partitions
    // of other weeks.
    sqlx::query!(
        "UPDATE messages SET
             scheduled_at = CASE WHEN scheduled_at > $6 THEN moved_back(scheduled_at, $2) ELSE scheduled_at END,
             expires_at = moved_back(expires_at, $2)
         WHERE tenant_id = $1 AND id = ANY ($3) AND id BETWEEN $4 AND $5 AND num_nonnulls(scheduled_at, expires_at) > 0",
        tenant,
        by as _,
        &messages,
        messages.first(),
        messages.last(),
        now
    )
    .execute(connection)
    .await?;
    Ok(moved)
}

/// Moves what follows simulated deliveries. Returns how many follow-ups have moved.
async fn move_followups(connection: &mut PgConnection, Shift { tenant, by, now }: Shift) -> Result<u64, sqlx::Error> {
    let query = sqlx::query!(
        "WITH waiting AS MATERIALIZED (
             SELECT message_id, recipient_id FROM simulator_followups
             WHERE tenant_id = $1 AND (leased_until IS NULL OR leased_until <= $3)
             ORDER BY message_id, recipient_id LIMIT $4 FOR UPDATE)
         UPDATE simulator_followups f SET due_at = moved_back(f.due_at, $2)
         FROM waiting w
         WHERE f.tenant_id = $1 AND f.message_id = w.message_id AND f.recipient_id = w.recipient_id",
        tenant,
        by as _,
        now,
        limit()
    );
    Ok(query.execute(connection).await?.rows_affected())
}

/// Moves the webhook endpoints that are closed or failing, and the failed deliveries. Returns how many deliveries have
/// moved.
async fn move_webhooks(connection: &mut PgConnection, Shift { tenant, by, .. }: Shift) -> Result<u64, sqlx::Error> {
    // Without its lease, a worker cannot overwrite the times with those that it has read. All endpoints are locked, because their retries
    // are locked next.
    sqlx::query!(
        "WITH locked AS MATERIALIZED (
             SELECT id FROM webhook_endpoints WHERE tenant_id = $1 ORDER BY id FOR NO KEY UPDATE)
         UPDATE webhook_endpoints e SET
             lease = NULL,
             open_at = moved_back(open_at, $2),
             failing_since = moved_back(failing_since, $2),
             old_secret_until = moved_back(old_secret_until, $2)
         FROM locked
         WHERE e.id = locked.id AND (open_at > 'epoch' OR num_nonnulls(failing_since, old_secret_until) > 0)",
        tenant,
        by as _
    )
    .execute(&mut *connection)
    .await?;
    let query = sqlx::query!(
        "WITH waiting AS MATERIALIZED (
             SELECT r.endpoint_id, r.seq FROM webhook_endpoints e
             JOIN webhook_retries r ON r.endpoint_id = e.id AND r.tenant_id = e.tenant_id
             WHERE e.tenant_id = $1 ORDER BY r.endpoint_id, r.seq LIMIT $3 FOR UPDATE OF r)
         UPDATE webhook_retries r SET due_at = moved_back(r.due_at, $2)
         FROM waiting w WHERE r.endpoint_id = w.endpoint_id AND r.seq = w.seq AND r.tenant_id = $1",
        tenant,
        by as _,
        limit()
    );
    Ok(query.execute(connection).await?.rows_affected())
}

/// Moves the state of rate limits and the pauses of streams and lanes, and the lower bounds of the lanes' due times.
async fn move_limits(connection: &mut PgConnection, Shift { tenant, by, .. }: Shift) -> Result<(), sqlx::Error> {
    // Both updates lock their rows in the order of the keys, as workers do.
    sqlx::query!(
        "WITH locked AS MATERIALIZED (
             SELECT tenant_id, name FROM streams WHERE tenant_id = $1 ORDER BY name FOR NO KEY UPDATE)
         UPDATE streams s SET
             open_at = moved_back(s.open_at, $2),
             next_turn_at = moved_back(s.next_turn_at, $2),
             paused_at = moved_back(s.paused_at, $2)
         FROM locked WHERE s.tenant_id = locked.tenant_id AND s.name = locked.name",
        tenant,
        by as _
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "WITH locked AS MATERIALIZED (SELECT id FROM lanes WHERE tenant_id = $1 ORDER BY id FOR NO KEY UPDATE)
         UPDATE lanes l SET
             ready_at = moved_back(l.ready_at, $2),
             open_at = moved_back(l.open_at, $2),
             next_turn_at = moved_back(l.next_turn_at, $2),
             paused_at = moved_back(l.paused_at, $2)
         FROM locked WHERE l.id = locked.id AND l.tenant_id = $1",
        tenant,
        by as _
    )
    .execute(&mut *connection)
    .await?;
    let query = sqlx::query!(
        "UPDATE pauses SET paused_at = moved_back(paused_at, $2), resumed_at = moved_back(resumed_at, $2)
         WHERE tenant_id = $1",
        tenant,
        by as _
    );
    query.execute(connection).await.map(drop)
}
