//! Reads the figures of a time range.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt as _;

use super::increment::{BOUNCE, LATENCY};
use crate::db::{Db, DbError};
use crate::domain::bounce::Category;
use crate::domain::id::TenantId;
use crate::domain::provider::Provider;
use crate::domain::statistics::GroupBy;
use crate::domain::statistics::count::{Counter, Figures};
use crate::domain::statistics::latency::BUCKETS;
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

/// Maximum number of points that are read, of all series together.
pub const MAX_POINTS_OF_SERIES: usize = 50_000;
/// Maximum number of rows of details of these points: one for each category of bounces and each bucket of latencies.
const MAX_DETAILS: usize = MAX_POINTS_OF_SERIES * (Category::ALL.len() + BUCKETS);

/// Returns a tenant's figures; `None` if they have more than [`MAX_POINTS_OF_SERIES`]. Time spans without events are left out.
pub async fn figures(db: &Db, tenant: TenantId, selection: &Selection) -> Result<Option<SeriesFigures>, DbError> {
    let mut series = SeriesFigures::new();
    if selection.group_by != Some(GroupBy::Category) && !add_counters(db, tenant, selection, &mut series).await? {
        return Ok(None);
    }
    let is_complete = add_details(db, tenant, selection, &mut series).await?;
    let points = series.values().map(BTreeMap::len).sum::<usize>();
    Ok((is_complete && points <= MAX_POINTS_OF_SERIES).then_some(series))
}

/// Returns the limit of a statement that finds out whether there are more than `count` rows.
fn one_more(count: usize) -> i64 {
    i64::try_from(count).map_or(i64::MAX, |count| count + 1)
}

/// Adds the counters. Returns false if there are too many.
async fn add_counters(
    db: &Db,
    tenant: TenantId,
    selection: &Selection,
    series: &mut SeriesFigures,
) -> Result<bool, DbError> {
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
           GROUP BY 1, 2 LIMIT $8"#,
        tenant.0,
        range.step.as_str(),
        range.since,
        range.until,
        selection.stream,
        selection.provider.map(Provider::as_str),
        selection.group_by.map(GroupBy::as_str),
        one_more(MAX_POINTS_OF_SERIES)
    );
    let rows = db.timed("statistics.counters", query.fetch_all(&db.pool)).await?;
    let is_complete = rows.len() <= MAX_POINTS_OF_SERIES;
    for row in rows {
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
    Ok(is_complete)
}

/// Adds bounces by category, and latencies. Returns false if there are too many. Reads row by row, because a point may
/// have many rows.
async fn add_details(
    db: &Db,
    tenant: TenantId,
    selection: &Selection,
    series: &mut SeriesFigures,
) -> Result<bool, DbError> {
    let range = selection.range;
    let is_by_category = selection.group_by == Some(GroupBy::Category);
    let query = sqlx::query!(
        r#"SELECT start_at, CASE $7 WHEN 'stream' THEN stream WHEN 'provider' THEN provider WHEN 'category' THEN value END AS name,
                  kind, value, sum(count)::bigint AS "count!"
           FROM statistics_details
           WHERE tenant_id = $1 AND step = $2 AND start_at >= $3 AND start_at < $4
             AND ($5::text IS NULL OR stream = $5) AND ($6::text IS NULL OR provider = $6)
             AND (NOT $8 OR kind = 'bounce')
           GROUP BY 1, 2, 3, 4 LIMIT $9"#,
        tenant.0,
        range.step.as_str(),
        range.since,
        range.until,
        selection.stream,
        selection.provider.map(Provider::as_str),
        selection.group_by.map(GroupBy::as_str),
        is_by_category,
        one_more(MAX_DETAILS)
    );
    db.timed("statistics.details", async {
        let (mut rows, mut count) = (query.fetch(&db.pool), 0);
        while let Some(row) = rows.try_next().await? {
            count += 1;
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
        Ok(count <= MAX_DETAILS)
    })
    .await
}

/// The queue in the time range.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    /// The samples that are not empty.
    pub samples: Vec<QueueSample>,
    /// The starts of the time spans in which the queue was measured.
    pub measured: BTreeSet<DateTime<Utc>>,
}

/// The queue of one series in a time span.
#[derive(Debug, Clone)]
pub struct QueueSample {
    /// The start of the time span.
    pub start_at: DateTime<Utc>,
    /// The stream, if they are grouped by stream.
    pub name: Option<String>,
    /// The highest number of waiting recipients.
    pub waiting: i64,
    /// The highest number of due recipients.
    pub due: i64,
    /// The highest age of a due time, in seconds.
    pub oldest_due_seconds: i64,
}

/// Returns the samples of a tenant's queue; `None` if they have more than [`MAX_POINTS_OF_SERIES`]. Without groups, those of all streams
/// are added up.
pub async fn queue(db: &Db, tenant: TenantId, selection: &Selection) -> Result<Option<Queue>, DbError> {
    let range = selection.range;
    let samples = sqlx::query_as!(
        QueueSample,
        r#"SELECT start_at, CASE $6 WHEN 'stream' THEN stream END AS name, sum(waiting)::bigint AS "waiting!",
                  sum(due)::bigint AS "due!", max(oldest_due_seconds) AS "oldest_due_seconds!"
           FROM queue_samples
           WHERE tenant_id = $1 AND step = $2 AND start_at >= $3 AND start_at < $4 AND ($5::text IS NULL OR stream = $5)
           GROUP BY 1, 2 LIMIT $7"#,
        tenant.0,
        range.step.as_str(),
        range.since,
        range.until,
        selection.stream,
        selection.group_by.map(GroupBy::as_str),
        one_more(MAX_POINTS_OF_SERIES)
    );
    let samples = db.timed("statistics.queue", samples.fetch_all(&db.pool)).await?;
    if samples.len() > MAX_POINTS_OF_SERIES {
        return Ok(None);
    }
    let measured = sqlx::query_scalar!(
        "SELECT start_at FROM queue_sampled WHERE step = $1 AND start_at >= $2 AND start_at < $3",
        range.step.as_str(),
        range.since,
        range.until
    );
    let measured = db.timed("statistics.queue_sampled", measured.fetch_all(&db.pool)).await?;
    Ok(Some(Queue { samples, measured: measured.into_iter().collect() }))
}

/// Returns the time up to which all events of a tenant are counted: `now` if none waits, and `None` if none is counted
/// yet.
pub async fn as_of(db: &Db, tenant: TenantId, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, DbError> {
    // Read from `events`, because the counter row may have many versions that a snapshot still sees.
    let query = sqlx::query!(
        r#"SELECT coalesce(last.seq, 0) <= coalesce(s.seq, 0) AND s.clear_from IS NULL AS "is_current!",
                  s.counted_until AS "counted_until?"
           FROM (SELECT (SELECT seq FROM events WHERE tenant_id = $1 ORDER BY seq DESC LIMIT 1) AS seq) AS last
           LEFT JOIN statistics_cursors s ON s.tenant_id = $1"#,
        tenant.0
    );
    let row = db.timed("statistics.as_of", query.fetch_one(&db.pool)).await?;
    Ok(if row.is_current { Some(now) } else { row.counted_until })
}
