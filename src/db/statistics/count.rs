//! Counts events: a transaction adds the next events of one tenant to the figures, and moves the cursor over them. So
//! each event is counted exactly once, whatever happens to the process, and by one process at a time.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::increment;
use crate::db::{Db, DbError};
use crate::domain::id::TenantId;
use crate::domain::statistics::count::{EventGroup, increments};
use crate::domain::statistics::latency::BOUNDS_MS;

/// Maximum number of tenants per call of [`behind`].
pub const TENANTS: usize = 100;
/// Rows deleted per transaction before a tenant's events are counted again.
const CLEARED: i64 = 5_000;

/// Returns tenants with events that are not counted yet, those first whose figures are the oldest, without the tenants
/// `except`.
pub async fn behind(db: &Db, except: &[Uuid]) -> Result<Vec<TenantId>, DbError> {
    // Read the newest version of a counter at the end of the index, as `take_event_numbers` does: while another
    // transaction stays open, a plain look-up reads all versions. A tenant without events has no cursor.
    db.timed("statistics.behind", async {
        let mut tx = db.pool.begin().await?;
        sqlx::query!("SELECT set_config('enable_seqscan', 'off', true) AS scan").fetch_one(&mut *tx).await?;
        sqlx::query!(
            "INSERT INTO statistics_cursors (tenant_id)
             SELECT t.id FROM tenants t
             CROSS JOIN LATERAL (SELECT last_seq FROM event_counters WHERE tenant_id >= t.id AND tenant_id <= t.id
                                 ORDER BY tenant_id DESC LIMIT 1) c
             WHERE c.last_seq > 0 AND NOT EXISTS (SELECT FROM statistics_cursors s WHERE s.tenant_id = t.id)
             ON CONFLICT DO NOTHING"
        )
        .execute(&mut *tx)
        .await?;
        let tenants = sqlx::query_scalar!(
            "SELECT s.tenant_id FROM statistics_cursors s
             CROSS JOIN LATERAL (SELECT last_seq FROM event_counters WHERE tenant_id >= s.tenant_id
                                     AND tenant_id <= s.tenant_id ORDER BY tenant_id DESC LIMIT 1) c
             WHERE (c.last_seq > s.seq OR s.clear_from IS NOT NULL) AND s.tenant_id <> ALL ($1)
             ORDER BY s.counted_until NULLS FIRST, s.tenant_id LIMIT $2",
            except,
            i64::try_from(TENANTS).unwrap_or(i64::MAX)
        )
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(tenants.into_iter().map(TenantId).collect())
    })
    .await
}

/// A step of [`advance`].
#[derive(Debug, Clone, Copy)]
pub struct Advanced {
    /// The number of events that it counted.
    pub events: i64,
    /// Whether more events waited, or more rows have to be deleted before events are counted.
    pub has_more: bool,
}

/// Counts at most `limit` events of a tenant. Returns `None` if there are none, or another process is counting them.
/// `is_relay` returns whether a host is a relay.
pub async fn advance(
    db: &Db,
    tenant: TenantId,
    limit: i64,
    now: DateTime<Utc>,
    is_relay: &(dyn Fn(&str) -> bool + Sync),
) -> Result<Option<Advanced>, DbError> {
    db.timed("statistics.advance", async {
        let mut tx = db.pool.begin().await?;
        configure(&mut tx).await?;
        let Some(cursor) = lock(&mut tx, tenant).await? else { return Ok(None) };
        if let Some(from) = cursor.clear_from {
            clear(&mut tx, tenant, from).await?;
            tx.commit().await?;
            return Ok(Some(Advanced { events: 0, has_more: true }));
        }
        // `last_seq` may be older than the cursor, if another process moved it after the snapshot of the lock.
        let up_to = cursor.last_seq.min(cursor.seq + limit);
        if up_to <= cursor.seq {
            return Ok(None);
        }
        let rows = events_between(&mut tx, tenant, cursor.seq, up_to).await?;
        if rows.is_empty() && up_to < cursor.last_seq {
            // A restore skipped many numbers.
            let next = next_event(&mut tx, tenant, up_to).await?;
            let up_to = next.map_or(cursor.last_seq, |seq| seq - 1);
            advance_cursor(&mut tx, tenant, up_to, None).await?;
            tx.commit().await?;
            return Ok(Some(Advanced { events: 0, has_more: up_to < cursor.last_seq }));
        }
        let until = rows.iter().map(|row| row.last_at).max();
        let groups: Vec<EventGroup> = rows.into_iter().map(Row::into_group).collect();
        increment::add(&mut tx, tenant, &increments(&groups, now, is_relay)).await?;
        advance_cursor(&mut tx, tenant, up_to, until).await?;
        tx.commit().await?;
        Ok(Some(Advanced { events: up_to - cursor.seq, has_more: up_to < cursor.last_seq }))
    })
    .await
}

/// Configures the transaction.
async fn configure(tx: &mut PgConnection) -> Result<(), sqlx::Error> {
    // Figures that a crash of the server loses are counted again, because their cursor is lost with them. The plan must
    // not depend on the statistics of a new partition: an index scan per list of ids, and hash joins of the results.
    sqlx::query!(
        "SELECT set_config('synchronous_commit', 'off', true) AS durability, set_config('enable_seqscan', 'off', true) AS scan,
                set_config('enable_nestloop', 'off', true) AS join"
    )
    .fetch_one(tx)
    .await
    .map(|_| ())
}

/// The position of a tenant's statistics.
struct Cursor {
    seq: i64,
    last_seq: i64,
    clear_from: Option<DateTime<Utc>>,
}

async fn lock(tx: &mut PgConnection, tenant: TenantId) -> Result<Option<Cursor>, sqlx::Error> {
    // The newest version of the counter, as in `behind`. A tenant without a counter is being deleted.
    sqlx::query_as!(
        Cursor,
        r#"SELECT s.seq, s.clear_from,
                  coalesce((SELECT last_seq FROM event_counters WHERE tenant_id >= $1 AND tenant_id <= $1
                            ORDER BY tenant_id DESC LIMIT 1), 0) AS "last_seq!"
           FROM statistics_cursors s WHERE s.tenant_id = $1 FOR UPDATE OF s SKIP LOCKED"#,
        tenant.0
    )
    .fetch_optional(tx)
    .await
}

/// Returns the number of the first event after `after`.
async fn next_event(tx: &mut PgConnection, tenant: TenantId, after: i64) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT seq FROM events WHERE tenant_id = $1 AND seq > $2 ORDER BY seq LIMIT 1",
        tenant.0,
        after
    )
    .fetch_optional(tx)
    .await
}

/// A row of [`events_between`].
struct Row {
    minute: DateTime<Utc>,
    kind: String,
    stream: Option<String>,
    domain: Option<String>,
    mx: Option<String>,
    category: Option<String>,
    flags: i32,
    latency_bucket: Option<i32>,
    count: i64,
    last_at: DateTime<Utc>,
}

impl Row {
    fn into_group(self) -> EventGroup {
        let has = |flag: i32| self.flags & flag != 0;
        EventGroup {
            is_disputed: has(1),
            has_attempt: has(2),
            has_recipient: has(4),
            is_final: has(8),
            minute: self.minute,
            kind: self.kind,
            stream: self.stream,
            domain: self.domain,
            mx: self.mx,
            category: self.category,
            latency_bucket: self.latency_bucket,
            count: self.count,
        }
    }
}

/// Reads the events after `after`, up to `up_to`, with their messages and recipients. Returns the numbers of those with
/// the same properties.
async fn events_between(
    tx: &mut PgConnection,
    tenant: TenantId,
    after: i64,
    up_to: i64,
) -> Result<Vec<Row>, sqlx::Error> {
    let bounds: Vec<f64> = BOUNDS_MS.iter().filter_map(|bound| i32::try_from(*bound).ok()).map(f64::from).collect();
    // Not `ORDER BY seq LIMIT`: for a partition without statistics, Postgres would sort all later events. The smallest
    // and largest ids limit the look-ups to the partitions of some weeks. The host of the last attempt, in `recipients`,
    // is used only after an end state, because it changes before it: counting again must have the same result. One
    // number has all flags, and the functions are the fastest of their kind, because they run for every event.
    sqlx::query_as!(
        Row,
        r#"WITH batch AS MATERIALIZED (
               SELECT recorded_at, type, message_id, recipient_id, attempt, mx, bounce_category, next_attempt_at, vouched
               FROM events WHERE tenant_id = $1 AND seq > $2 AND seq <= $3),
           ids AS MATERIALIZED (
               SELECT ARRAY(SELECT DISTINCT message_id FROM batch WHERE message_id IS NOT NULL ORDER BY 1) AS list),
           message AS MATERIALIZED (
               SELECT id, stream, created_at, scheduled_at IS NOT NULL AS is_scheduled FROM messages
               WHERE tenant_id = $1 AND id = ANY ((SELECT list FROM ids)::uuid[])
                 AND id >= (SELECT list[1] FROM ids) AND id <= (SELECT list[cardinality(list)] FROM ids)),
           recipient AS MATERIALIZED (
               SELECT message_id, id, mx, split_part(address, '@', -1) AS domain FROM recipients
               WHERE tenant_id = $1 AND message_id = ANY ((SELECT list FROM ids)::uuid[])
                 AND message_id >= (SELECT list[1] FROM ids)
                 AND message_id <= (SELECT list[cardinality(list)] FROM ids))
           SELECT date_bin('1 minute', b.recorded_at, 'epoch') AS "minute!", b.type AS "kind!", m.stream AS "stream?",
                  r.domain AS "domain?",
                  CASE WHEN b.type IN ('message.accepted', 'message.scheduled', 'message.deferred', 'message.uncertain')
                      THEN b.mx ELSE coalesce(b.mx, r.mx) END AS mx,
                  b.bounce_category AS category,
                  (b.vouched IS FALSE)::integer + 2 * (b.attempt IS NOT NULL)::integer
                      + 4 * (b.recipient_id IS NOT NULL)::integer + 8 * (b.next_attempt_at IS NULL)::integer AS "flags!",
                  CASE WHEN b.type IN ('message.relayed', 'message.delivered') AND b.attempt IS NOT NULL AND NOT m.is_scheduled
                      THEN width_bucket(date_part('epoch', b.recorded_at - m.created_at) * 1000, $4::float8[])
                      END AS latency_bucket,
                  count(*) AS "count!", max(b.recorded_at) AS "last_at!"
           FROM batch b
           LEFT JOIN message m ON m.id = b.message_id
           LEFT JOIN recipient r ON r.message_id = b.message_id AND (b.recipient_id IS NULL OR r.id = b.recipient_id)
           GROUP BY 1, 2, 3, 4, 5, 6, 7, 8"#,
        tenant.0,
        after,
        up_to,
        &bounds
    )
    .fetch_all(tx)
    .await
}

async fn advance_cursor(
    tx: &mut PgConnection,
    tenant: TenantId,
    seq: i64,
    until: Option<DateTime<Utc>>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE statistics_cursors SET seq = $2, counted_until = greatest(counted_until, $3)
         WHERE tenant_id = $1",
        tenant.0,
        seq,
        until
    )
    .execute(tx)
    .await
    .map(|_| ())
}

/// Deletes some of a tenant's rows from a time on; once there are none, the next call counts events.
async fn clear(tx: &mut PgConnection, tenant: TenantId, from: DateTime<Utc>) -> Result<(), sqlx::Error> {
    let cleared = delete_from(tx, tenant.0, from).await?;
    if cleared == 0 {
        sqlx::query!("UPDATE statistics_cursors SET clear_from = NULL WHERE tenant_id = $1", tenant.0)
            .execute(tx)
            .await?;
    }
    Ok(())
}

async fn delete_from(tx: &mut PgConnection, tenant: Uuid, from: DateTime<Utc>) -> Result<u64, sqlx::Error> {
    let figures = sqlx::query!(
        "DELETE FROM statistics WHERE ctid = ANY (ARRAY(
             SELECT ctid FROM statistics
             WHERE tenant_id = $1 AND step = ANY ('{minute,hour,day}') AND start_at >= $2 LIMIT $3))",
        tenant,
        from,
        CLEARED
    );
    let figures = figures.execute(&mut *tx).await?.rows_affected();
    let details = sqlx::query!(
        "DELETE FROM statistics_details WHERE ctid = ANY (ARRAY(
             SELECT ctid FROM statistics_details
             WHERE tenant_id = $1 AND step = ANY ('{minute,hour,day}') AND start_at >= $2 LIMIT $3))",
        tenant,
        from,
        CLEARED
    );
    Ok(figures + details.execute(tx).await?.rows_affected())
}
