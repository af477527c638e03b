//! Deletes old time spans.

use chrono::{DateTime, Utc};

use crate::db::{Db, DbError};
use crate::domain::statistics::Step;

/// Rows deleted per statement.
const BATCH: i64 = 2_000;

/// Deletes the minutes and hours that are no longer kept, in small transactions. Returns the number of rows.
pub async fn remove_old(db: &Db, now: DateTime<Utc>) -> Result<u64, DbError> {
    let mut removed = 0;
    for step in Step::ALL {
        let Some(before) = step.deleted_before(now) else { continue };
        loop {
            let rows = remove_batch(db, step, before).await?;
            removed += rows;
            if rows == 0 {
                break;
            }
        }
    }
    Ok(removed)
}

/// Deletes at most [`BATCH`] rows of each table. Skips rows that another worker is deleting.
async fn remove_batch(db: &Db, step: Step, before: DateTime<Utc>) -> Result<u64, DbError> {
    db.timed("statistics.remove_old", async {
        let figures = sqlx::query!(
            "DELETE FROM statistics WHERE ctid = ANY (ARRAY(
                 SELECT ctid FROM statistics WHERE step = $1 AND step <> 'day' AND start_at < $2
                 ORDER BY step, start_at LIMIT $3 FOR UPDATE SKIP LOCKED))",
            step.as_str(),
            before,
            BATCH
        );
        let details = sqlx::query!(
            "DELETE FROM statistics_details WHERE ctid = ANY (ARRAY(
                 SELECT ctid FROM statistics_details WHERE step = $1 AND step <> 'day' AND start_at < $2
                 ORDER BY step, start_at LIMIT $3 FOR UPDATE SKIP LOCKED))",
            step.as_str(),
            before,
            BATCH
        );
        let samples = sqlx::query!(
            "DELETE FROM queue_samples WHERE ctid = ANY (ARRAY(
                 SELECT ctid FROM queue_samples WHERE step = $1 AND step <> 'day' AND start_at < $2
                 ORDER BY step, start_at LIMIT $3 FOR UPDATE SKIP LOCKED))",
            step.as_str(),
            before,
            BATCH
        );
        let mut removed = figures.execute(&db.pool).await?.rows_affected();
        removed += details.execute(&db.pool).await?.rows_affected();
        removed += samples.execute(&db.pool).await?.rows_affected();
        // One row per time span.
        let sampled = sqlx::query!(
            "DELETE FROM queue_sampled WHERE ctid = ANY (ARRAY(
                 SELECT ctid FROM queue_sampled WHERE step = $1 AND start_at < $2
                 ORDER BY start_at LIMIT $3 FOR UPDATE SKIP LOCKED))",
            step.as_str(),
            before,
            BATCH
        );
        Ok(removed + sampled.execute(&db.pool).await?.rows_affected())
    })
    .await
}
