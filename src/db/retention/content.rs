//! Deletes content row by row, where its week cannot be dropped as a whole: some of its messages are protected, or their stream keeps
//! content for longer. References to attachments are left to [`crate::db::messages::blob_cleanup`], which deletes those without content.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Periods, Week};
use crate::db::pool::scan::{SCAN_LIMIT, allow_scan};
use crate::db::{Db, DbError};

/// Maximum number of contents that one step reads.
const READ: i64 = 500;
/// Maximum number of a bulk's messages that one step changes.
const CHANGED: i64 = 500;

/// The shortest and the longest time in seconds for which streams keep content.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// The shortest.
    pub least: f64,
    /// The longest.
    pub most: f64,
}

/// Returns for how long streams keep content. Content is never kept for longer than messages.
pub async fn range(db: &Db, periods: &Periods) -> Result<Range, DbError> {
    let query = sqlx::query!(
        r#"SELECT min(s) AS "least!", max(s) AS "most!" FROM (
               SELECT least(coalesce(nullif(content_retention, 0)::double precision, $2), $2) AS s FROM streams
               WHERE content_retention IS NOT NULL
               UNION ALL SELECT least($1::double precision, $2::double precision)) kept"#,
        periods.content.seconds(),
        periods.messages.seconds()
    );
    let row = db.timed("retention.content.range", query.fetch_one(&db.pool)).await?;
    Ok(Range { least: row.least, most: row.most })
}

/// Returns a hash of which streams' content of this age in seconds may be deleted. Content that was kept is kept while it is the same.
pub async fn passed(db: &Db, age: f64, periods: &Periods) -> Result<String, DbError> {
    let query = sqlx::query_scalar!(
        r#"SELECT md5(concat(least($2::double precision, $3::double precision) <= $1::double precision,
                  string_agg(concat_ws(' ', tenant_id, name,
                                       least(coalesce(nullif(content_retention, 0)::double precision, $3), $3) <= $1),
                             E'\n' ORDER BY tenant_id, name))) AS "passed!"
           FROM streams WHERE content_retention IS NOT NULL"#,
        age,
        periods.content.seconds(),
        periods.messages.seconds()
    );
    db.timed("retention.content.passed", query.fetch_one(&db.pool)).await
}

/// What a step has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Number of contents that were deleted.
    pub deleted: i64,
    /// The last content that was read; `None` at the end.
    pub last: Option<Uuid>,
}

/// Deletes the content of finished messages among the next ones with an id after `after` and before `end`, whose period has passed for
/// an age of `age` seconds. Contents of bulks are left out.
pub async fn delete_step(
    db: &Db,
    (after, end): (Uuid, Uuid),
    age: f64,
    periods: &Periods,
    now: DateTime<Utc>,
) -> Result<Step, DbError> {
    // Each content is looked up by its key, as for sending.
    let query = sqlx::query!(
        r#"WITH next AS MATERIALIZED (
               SELECT id, tenant_id FROM contents WHERE id > $1 AND id < $2 ORDER BY id LIMIT $3),
           ended AS MATERIALIZED (
               SELECT n.id, n.tenant_id FROM next n
               LEFT JOIN LATERAL (SELECT stream, on_uncertain FROM messages
                                  WHERE id = n.id AND tenant_id = n.tenant_id AND id > $1 AND id < $2 OFFSET 0) m ON true
               LEFT JOIN streams s ON s.tenant_id = n.tenant_id AND s.name = m.stream
               WHERE least(CASE WHEN s.content_retention = 0 THEN $6 ELSE coalesce(s.content_retention::double precision, $5) END, $6)
                     <= $4::double precision
                 AND NOT EXISTS (SELECT FROM bulks b WHERE b.tenant_id = n.tenant_id AND b.content_id = n.id)
                 AND NOT EXISTS (SELECT FROM queue q WHERE q.message_id = n.id AND q.tenant_id = n.tenant_id)
                 AND NOT (coalesce(m.on_uncertain, '') = 'hold' AND EXISTS (
                          SELECT FROM recipients r WHERE r.message_id = n.id AND r.tenant_id = n.tenant_id
                             AND r.status = 'uncertain'))),
           marked AS (
               UPDATE messages m SET content_deleted_at = $7, variables = NULL FROM ended e
               WHERE m.id = e.id AND m.tenant_id = e.tenant_id AND m.id > $1 AND m.id < $2 RETURNING 1),
           gone AS (
               DELETE FROM contents c USING ended e
               WHERE c.id = e.id AND c.tenant_id = e.tenant_id AND c.id > $1 AND c.id < $2
                 -- Messages are locked before their contents, as by requests that redact them.
                 AND (SELECT count(*) FROM marked) >= 0 RETURNING c.id)
           SELECT (SELECT count(*) FROM gone) AS "deleted!", (SELECT id FROM next ORDER BY id DESC LIMIT 1) AS last"#,
        after,
        end,
        READ,
        age,
        periods.content.seconds(),
        periods.messages.seconds(),
        now
    );
    let row = db.timed("retention.content.delete", query.fetch_one(&db.pool)).await?;
    Ok(Step { deleted: row.deleted, last: row.last })
}

/// A bulk whose content can be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedBulk {
    tenant: Uuid,
    bulk: Uuid,
    content: Uuid,
}

/// Returns finished bulks with content in a week whose period has passed.
pub async fn ended_bulks(
    db: &Db,
    week: Week,
    periods: &Periods,
    now: DateTime<Utc>,
) -> Result<Vec<EndedBulk>, DbError> {
    let (first, end) = week.ids();
    let query = sqlx::query!(
        "SELECT b.tenant_id, b.id, b.content_id FROM bulks b
         LEFT JOIN streams s ON s.tenant_id = b.tenant_id AND s.name = b.stream
         WHERE b.content_id >= $1 AND b.content_id < $2
           AND least(CASE WHEN s.content_retention = 0 THEN $5 ELSE coalesce(s.content_retention::double precision, $4) END, $5)
               <= $3::double precision
           AND EXISTS (SELECT FROM contents c WHERE c.id = b.content_id AND c.tenant_id = b.tenant_id)
           AND NOT is_bulk_unfinished(b.tenant_id, b.id)",
        first,
        end,
        week.age(now),
        periods.content.seconds(),
        periods.messages.seconds()
    );
    // A bulk may have millions of messages.
    let rows = db
        .timed_for(SCAN_LIMIT, "retention.content.ended_bulks", async {
            let mut tx = db.pool.begin().await?;
            allow_scan(&mut tx).await?;
            let rows = query.fetch_all(&mut *tx).await?;
            tx.commit().await?;
            Ok(rows)
        })
        .await?;
    let bulks = rows.into_iter();
    Ok(bulks.map(|row| EndedBulk { tenant: row.tenant_id, bulk: row.id, content: row.content_id }).collect())
}

/// Marks the next messages of a bulk with an id after `after`, and deletes their variables. Returns the last of them; `None` at the end,
/// when the content is deleted.
pub async fn delete_bulk_step(
    db: &Db,
    bulk: EndedBulk,
    after: Uuid,
    now: DateTime<Utc>,
) -> Result<Option<Uuid>, DbError> {
    db.timed("retention.content.delete_bulk", async {
        let next = sqlx::query_scalar!(
            "SELECT message_id FROM bulk_messages WHERE bulk_id = $1 AND message_id > $2 ORDER BY message_id LIMIT $3",
            bulk.bulk,
            after,
            CHANGED
        );
        let next = next.fetch_all(&db.pool).await?;
        let (Some(&first), Some(&last)) = (next.first(), next.last()) else {
            sqlx::query!("DELETE FROM contents WHERE id = $2 AND tenant_id = $1", bulk.tenant, bulk.content)
                .execute(&db.pool)
                .await?;
            return Ok(None);
        };
        // The range lets the planner leave out the partitions of other weeks.
        sqlx::query!(
            "UPDATE messages SET content_deleted_at = coalesce(content_deleted_at, $5), variables = NULL
             WHERE id = ANY ($2) AND tenant_id = $1 AND id >= $3 AND id <= $4
               AND (content_deleted_at IS NULL OR variables IS NOT NULL)",
            bulk.tenant,
            &next,
            first,
            last,
            now
        )
        .execute(&db.pool)
        .await?;
        Ok(Some(last))
    })
    .await
}

/// Returns whether no content is stored in a week.
pub async fn is_empty(db: &Db, week: Week) -> Result<bool, DbError> {
    let (first, end) = week.ids();
    let query = sqlx::query_scalar!(
        r#"SELECT NOT EXISTS (SELECT FROM contents WHERE id >= $1 AND id < $2) AS "is_empty!""#,
        first,
        end
    );
    db.timed("retention.content.is_empty", query.fetch_one(&db.pool)).await
}
