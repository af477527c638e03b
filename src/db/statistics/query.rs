//! Reads the figures of a time range.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::increment::{BOUNCE, LATENCY};
use crate::db::{Db, DbError};
use crate::domain::id::TenantId;
use crate::domain::provider::Provider;
use crate::domain::statistics::GroupBy;
use crate::domain::statistics::count::{Counter, Figures};
use crate::domain::statistics::range::Range;

/// Selects figures.
#[derive(Debug, Clone)]
pub struct Selection {
    /// The time range.
    pub range: Range,
    /// Only those of this stream.
    pub stream: Option<String>,
    /// Only those of this provider.
    pub provider: Option<Provider>,
    /// The series that they are divided into.
    pub group_by: Option<GroupBy>,
}

/// Figures by series and start of the time span. Without groups, the only series has no name.
pub type SeriesFigures = BTreeMap<Option<String>, BTreeMap<DateTime<Utc>, Figures>>;

/// Returns a tenant's figures. Time spans without events are left out.
pub async fn figures(db: &Db, tenant: TenantId, selection: &Selection) -> Result<SeriesFigures, DbError> {
    let mut series = SeriesFigures::new();
    if selection.group_by != Some(GroupBy::Category) {
        add_counters(db, tenant, selection, &mut series).await?;
    }
    add_details(db, tenant, selection, &mut series).await?;
    Ok(series)
}

async fn add_counters(
    db: &Db,
    tenant: TenantId,
    selection: &Selection,
    series: &mut SeriesFigures,
) -> Result<(), DbError> {
    let range = selection.range;
    let query = sqlx::query!(
        r#"SELECT start_at, CASE $7 WHEN 'stream' THEN stream WHEN 'provider' THEN provider END AS name,
                  sum(accepted)::bigint AS "accepted!", sum(relayed)::bigint AS "relayed!", sum(delivered)::bigint AS "delivered!",
                  sum(bounced)::bigint AS "bounced!", sum(expired)::bigint AS "expired!", sum(suppressed)::bigint AS "suppressed!",
                  sum(canceled)::bigint AS "canceled!", sum(uncertain)::bigint AS "uncertain!",
                  sum(deferred)::bigint AS "deferred!", sum(complained)::bigint AS "complained!",
                  sum(unsubscribed)::bigint AS "unsubscribed!"
           FROM statistics
           WHERE tenant_id = $1 AND step = $2 AND start_at >= $3 AND start_at < $4
             AND ($5::text IS NULL OR stream = $5) AND ($6::text IS NULL OR provider = $6)
           GROUP BY 1, 2"#,
        tenant.0,
        range.step.as_str(),
        range.since,
        range.until,
        selection.stream,
        selection.provider.map(Provider::as_str),
        selection.group_by.map(GroupBy::as_str)
    );
    for row in db.timed("statistics.counters", query.fetch_all(&db.pool)).await? {
        let figures = series.entry(row.name).or_default().entry(row.start_at).or_default();
        figures.add(Counter::Accepted, row.accepted);
        figures.add(Counter::Relayed, row.relayed);
        figures.add(Counter::Delivered, row.delivered);
        figures.add(Counter::Bounced, row.bounced);
        figures.add(Counter::Expired, row.expired);
        figures.add(Counter::Suppressed, row.suppressed);
        figures.add(Counter::Canceled, row.canceled);
        figures.add(Counter::Uncertain, row.uncertain);
        figures.add(Counter::Deferred, row.deferred);
        figures.add(Counter::Complained, row.complained);
        figures.add(Counter::Unsubscribed, row.unsubscribed);
    }
    Ok(())
}

async fn add_details(
    db: &Db,
    tenant: TenantId,
    selection: &Selection,
    series: &mut SeriesFigures,
) -> Result<(), DbError> {
    let range = selection.range;
    let is_by_category = selection.group_by == Some(GroupBy::Category);
    let query = sqlx::query!(
        r#"SELECT start_at, CASE $7 WHEN 'stream' THEN stream WHEN 'provider' THEN provider WHEN 'category' THEN value END AS name,
                  kind, value, sum(count)::bigint AS "count!"
           FROM statistics_details
           WHERE tenant_id = $1 AND step = $2 AND start_at >= $3 AND start_at < $4
             AND ($5::text IS NULL OR stream = $5) AND ($6::text IS NULL OR provider = $6)
             AND (NOT $8 OR kind = 'bounce')
           GROUP BY 1, 2, 3, 4"#,
        tenant.0,
        range.step.as_str(),
        range.since,
        range.until,
        selection.stream,
        selection.provider.map(Provider::as_str),
        selection.group_by.map(GroupBy::as_str),
        is_by_category
    );
    for row in db.timed("statistics.details", query.fetch_all(&db.pool)).await? {
        let figures = series.entry(row.name).or_default().entry(row.start_at).or_default();
        match &*row.kind {
            BOUNCE => {
                *figures.bounces.entry(row.value).or_default() += row.count;
                if is_by_category {
                    figures.add(Counter::Bounced, row.count);
                }
            }
            LATENCY => {
                if let Ok(bucket) = row.value.parse() {
                    figures.latency.add(bucket, row.count);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The queue of one stream in a time span.
#[derive(Debug, Clone)]
pub struct QueueSample {
    /// The start of the time span.
    pub start_at: DateTime<Utc>,
    /// The stream.
    pub stream: String,
    /// The highest number of waiting recipients.
    pub waiting: i64,
    /// The highest number of due recipients.
    pub due: i64,
    /// The highest age of a due time, in seconds.
    pub oldest_due_seconds: i64,
}

/// Returns the samples of a tenant's queue in the time range, without those of empty queues.
pub async fn queue(db: &Db, tenant: TenantId, selection: &Selection) -> Result<Vec<QueueSample>, DbError> {
    let range = selection.range;
    let query = sqlx::query_as!(
        QueueSample,
        "SELECT start_at, stream, waiting, due, oldest_due_seconds FROM queue_samples
         WHERE tenant_id = $1 AND step = $2 AND start_at >= $3 AND start_at < $4 AND ($5::text IS NULL OR stream = $5)",
        tenant.0,
        range.step.as_str(),
        range.since,
        range.until,
        selection.stream
    );
    db.timed("statistics.queue", query.fetch_all(&db.pool)).await
}

/// Returns the time up to which all events of a tenant are counted: `now` if none waits, and `None` if none is counted
/// yet.
pub async fn as_of(db: &Db, tenant: TenantId, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, DbError> {
    let query = sqlx::query!(
        r#"SELECT c.last_seq = coalesce(s.seq, 0) AND s.clear_from IS NULL AS "is_current!", s.counted_until AS "counted_until?"
           FROM event_counters c LEFT JOIN statistics_cursors s ON s.tenant_id = c.tenant_id WHERE c.tenant_id = $1"#,
        tenant.0
    );
    let row = db.timed("statistics.as_of", query.fetch_optional(&db.pool)).await?;
    Ok(row.map_or(Some(now), |row| if row.is_current { Some(now) } else { row.counted_until }))
}
