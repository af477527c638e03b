//! The table `greylist`.

use chrono::{DateTime, TimeDelta, Utc};

use crate::db::{Db, DbError};

/// Maximum number of rows that one call deletes.
const DELETED: i64 = 1_000;

/// The periods of greylisting.
#[derive(Debug, Clone, Copy)]
pub struct Periods {
    /// How long messages are deferred.
    pub delay: TimeDelta,
    /// How long an entry is kept that has not passed.
    pub pending: TimeDelta,
    /// How long an entry that has passed is kept.
    pub passed: TimeDelta,
}

/// Inserts the entries that are new, and lets those pass that have waited for long enough. Returns whether all of them have passed.
/// `keys` are sorted, so that two calls cannot deadlock, and without duplicates.
pub async fn admits(db: &Db, keys: &[Vec<u8>], periods: Periods, now: DateTime<Utc>) -> Result<bool, DbError> {
    let query = sqlx::query_scalar!(
        r#"WITH seen AS (
               INSERT INTO greylist AS g (key, first_seen_at, expires_at)
               SELECT key, $2, $3 FROM unnest($1::bytea[]) WITH ORDINALITY AS u (key, n) ORDER BY n
               ON CONFLICT (key) DO UPDATE SET
                   first_seen_at = CASE WHEN g.expires_at <= $2 THEN $2 ELSE g.first_seen_at END,
                   passed_at = CASE WHEN g.expires_at > $2 AND g.first_seen_at <= $4 THEN coalesce(g.passed_at, $2) END,
                   expires_at = CASE WHEN g.expires_at <= $2 THEN $3 WHEN g.first_seen_at <= $4 THEN $5 ELSE g.expires_at END
               RETURNING passed_at)
           SELECT bool_and(passed_at IS NOT NULL) AS "passed!" FROM seen"#,
        keys,
        now,
        now + periods.pending,
        now - periods.delay,
        now + periods.passed
    );
    db.timed("receiving.greylist.admits", query.fetch_one(&db.pool)).await
}

/// Deletes expired entries. Returns their number.
pub async fn remove_expired(db: &Db, now: DateTime<Utc>) -> Result<u64, DbError> {
    let query = sqlx::query!(
        "DELETE FROM greylist WHERE key = ANY (ARRAY(
             SELECT key FROM greylist WHERE expires_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED))",
        now,
        DELETED
    );
    db.timed("receiving.greylist.remove_expired", query.execute(&db.pool)).await.map(|done| done.rows_affected())
}
