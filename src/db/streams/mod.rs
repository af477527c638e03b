//! The table `streams`: kinds of traffic with their priorities and limits.

pub mod retry_policies;

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Db, DbError};
use crate::domain::delivery::retry::OwnPolicy;
use crate::domain::id::TenantId;
use crate::domain::limits::StreamChange;

/// A stream.
#[derive(Debug, Clone)]
pub struct StreamRow {
    /// Name, unique within the tenant.
    pub name: String,
    /// Priority, 0–100; lower values are sent first.
    pub priority: i16,
    /// Weight, 1–1000, among streams of the same priority.
    pub weight: i16,
    /// Limit on messages in flight, across all lanes and replicas.
    pub concurrency: Option<i32>,
    /// Limit on messages per second, across all lanes and replicas.
    pub rate: Option<f64>,
    /// Retry settings that differ from the configured ones.
    pub retry: OwnPolicy,
    /// Whether its messages carry an unsubscribe link.
    pub unsubscribe: bool,
    /// How long its messages keep their content, in seconds; 0: as long as the messages; `None`: as configured.
    pub content_retention: Option<i32>,
    /// When an operator paused it.
    pub paused_at: Option<DateTime<Utc>>,
    /// Reason for the pause.
    pub pause_reason: Option<String>,
    /// Time of creation.
    pub created_at: DateTime<Utc>,
}

/// What a request that sends messages needs to know about a stream.
#[derive(Debug, Clone)]
pub struct StreamSummary {
    /// Name, unique within the tenant.
    pub name: String,
    /// Whether its messages carry an unsubscribe link.
    pub unsubscribe: bool,
}

/// Returns the streams of each of these tenants, in order of priority. Tenants without streams are left out.
pub async fn of_tenants(db: &Db, tenants: &[TenantId]) -> Result<HashMap<TenantId, Vec<StreamSummary>>, DbError> {
    let tenants: Vec<Uuid> = tenants.iter().map(|tenant| tenant.0).collect();
    // Processes cache the result: the trigger note_stream_change has to note changes of every column that is read
    // here, or that the order depends on, in tenant_changes.
    let query = sqlx::query!(
        "SELECT tenant_id, name, unsubscribe FROM streams WHERE tenant_id = ANY ($1) ORDER BY priority, name",
        &tenants
    );
    let mut streams = HashMap::<TenantId, Vec<StreamSummary>>::new();
    for row in db.timed("streams.of_tenants", query.fetch_all(&db.pool)).await? {
        let stream = StreamSummary { name: row.name, unsubscribe: row.unsubscribe };
        streams.entry(TenantId(row.tenant_id)).or_default().push(stream);
    }
    Ok(streams)
}

/// Returns all streams of a tenant, in order of priority.
pub async fn all(db: &Db, tenant: TenantId) -> Result<Vec<StreamRow>, DbError> {
    read(db, tenant, None).await
}

/// Returns one stream.
pub async fn get(db: &Db, tenant: TenantId, name: &str) -> Result<Option<StreamRow>, DbError> {
    read(db, tenant, Some(name)).await.map(|mut rows| rows.pop())
}

/// Returns the names of streams, of any tenant, whose messages carry an unsubscribe link; for `postrider doctor`.
pub async fn with_unsubscribe_links(db: &Db, limit: i64) -> Result<Vec<String>, DbError> {
    let query =
        sqlx::query_scalar!("SELECT DISTINCT name FROM streams WHERE unsubscribe ORDER BY name LIMIT $1", limit);
    db.timed("streams.with_unsubscribe_links", query.fetch_all(&db.pool)).await
}

async fn read(db: &Db, tenant: TenantId, name: Option<&str>) -> Result<Vec<StreamRow>, DbError> {
    let query = sqlx::query!(
        "SELECT name, priority, weight, concurrency, rate, retry_schedule, retry_window, greylist, unsubscribe,
                content_retention, paused_at, pause_reason, created_at
         FROM streams WHERE tenant_id = $1 AND ($2::text IS NULL OR name = $2) ORDER BY priority, name",
        tenant.0,
        name
    );
    let rows = db.timed("streams.read", query.fetch_all(&db.pool)).await?;
    let rows = rows.into_iter().map(|row| StreamRow {
        name: row.name,
        priority: row.priority,
        weight: row.weight,
        concurrency: row.concurrency,
        rate: row.rate,
        retry: OwnPolicy { schedule: row.retry_schedule, window: row.retry_window, greylist: row.greylist },
        unsubscribe: row.unsubscribe,
        content_retention: row.content_retention,
        paused_at: row.paused_at,
        pause_reason: row.pause_reason,
        created_at: row.created_at,
    });
    Ok(rows.collect())
}

/// Creates a stream. Returns `false`, and changes nothing, if a stream of this name exists.
pub async fn create(
    db: &Db,
    tenant: TenantId,
    name: &str,
    settings: StreamChange,
    now: DateTime<Utc>,
) -> Result<bool, DbError> {
    let schedule = settings.retry_schedule.value();
    let query = sqlx::query!(
        "INSERT INTO streams (tenant_id, name, priority, weight, concurrency, rate, retry_schedule, retry_window, greylist,
                              created_at, unsubscribe, content_retention)
         VALUES ($1 /* tenant */, $2 /* name */, coalesce($3::smallint /* priority */, 50),
                 coalesce($4::smallint /* weight */, 10), $5 /* concurrency */, $6 /* rate */, $7 /* schedule */,
                 $8 /* retry_window */, $9 /* greylist */, $10 /* now */, coalesce($11::boolean /* unsubscribe */, false),
                 $12 /* content_retention */)
         ON CONFLICT DO NOTHING",
        tenant.0,
        name,
        settings.priority,
        settings.weight,
        settings.concurrency.value(),
        settings.rate.value(),
        schedule.as_deref(),
        settings.retry_window.value(),
        settings.greylist.value(),
        now,
        settings.unsubscribe,
        settings.content_retention.value()
    );
    db.timed("streams.create", query.execute(&db.pool)).await.map(|done| done.rows_affected() > 0)
}

/// Changes a stream. Returns whether it exists.
///
/// Does not update the stream's lanes, because priorities are always read from this table.
pub async fn change(
    db: &Db,
    tenant: TenantId,
    name: &str,
    change: StreamChange,
    now: DateTime<Utc>,
) -> Result<bool, DbError> {
    let sets_schedule = change.retry_schedule.is_change();
    let schedule = change.retry_schedule.value();
    // A different rate moves the next send time, which may be a day away, back to now, but not further, so that the
    // stream does not get a second burst. Setting the same rate again changes nothing.
    let query = sqlx::query!(
        "UPDATE streams SET
             priority = coalesce($3 /* priority */, priority),
             weight = coalesce($4 /* weight */, weight),
             concurrency = CASE WHEN $5 /* concurrency.is_change */ THEN $6 /* concurrency.value */ ELSE concurrency END,
             rate = CASE WHEN $7 /* rate.is_change */ THEN $8 /* rate.value */ ELSE rate END,
             retry_schedule = CASE WHEN $9 /* sets_schedule */ THEN $10 /* schedule */ ELSE retry_schedule END,
             retry_window = CASE WHEN $11 /* retry_window.is_change */ THEN $12 /* retry_window.value */
                            ELSE retry_window END,
             greylist = CASE WHEN $13 /* greylist.is_change */ THEN $14 /* greylist.value */ ELSE greylist END,
             unsubscribe = coalesce($15 /* unsubscribe */, unsubscribe),
             content_retention = CASE WHEN $17 /* content_retention.is_change */ THEN $18 /* content_retention.value */
                                 ELSE content_retention END,
             open_at = CASE WHEN $7 AND rate IS DISTINCT FROM $8 THEN '-infinity' ELSE open_at END,
             next_turn_at = CASE WHEN $7 AND rate IS DISTINCT FROM $8 THEN least(next_turn_at, $16 /* now */)
                            ELSE next_turn_at END
         WHERE tenant_id = $1 /* tenant */ AND name = $2 /* name */",
        tenant.0,
        name,
        change.priority,
        change.weight,
        change.concurrency.is_change(),
        change.concurrency.value(),
        change.rate.is_change(),
        change.rate.value(),
        sets_schedule,
        schedule.as_deref(),
        change.retry_window.is_change(),
        change.retry_window.value(),
        change.greylist.is_change(),
        change.greylist.value(),
        change.unsubscribe,
        now,
        change.content_retention.is_change(),
        change.content_retention.value()
    );
    db.timed("streams.change", query.execute(&db.pool)).await.map(|done| done.rows_affected() > 0)
}

/// Pauses a stream; messages are still accepted and queued. Pausing it again changes only the reason. Returns whether
/// the stream exists.
pub async fn pause(
    db: &Db,
    tenant: TenantId,
    name: &str,
    reason: Option<&str>,
    now: DateTime<Utc>,
) -> Result<bool, DbError> {
    let query = sqlx::query!(
        "UPDATE streams SET paused_at = coalesce(paused_at, $4), pause_reason = $3 WHERE tenant_id = $1 AND name = $2",
        tenant.0,
        name,
        reason,
        now
    );
    db.timed("streams.pause", query.execute(&db.pool)).await.map(|done| done.rows_affected() > 0)
}
