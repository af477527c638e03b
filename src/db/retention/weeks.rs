//! The weekly partitions: which there are, and dropping them.
//!
//! Dropping a partition needs an exclusive lock on its parent, and transactions that use the parent wait behind it. So a drop is one
//! statement of at most `DROP_LIMIT`, which gives up after `LOCK_LIMIT` if another transaction holds a lock, and is tried again. It is
//! sent to the server together with its commit, which does not wait for standbys: while the lock is held, nothing waits for this process
//! or for another server. A drop that is lost in a failover is repeated.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Class, Week};
use crate::db::{Db, DbError};

/// Time limit of the statement that drops the partitions of a week: new messages wait for it at most this long.
const DROP_LIMIT: Duration = Duration::from_millis(90);
/// Time limit for each lock that it needs.
const LOCK_LIMIT: Duration = Duration::from_millis(40);
/// Maximum number of tries per run.
const TRIES: u32 = 5;
/// Pause after the first try; twice as long after each further one.
const PAUSE: Duration = Duration::from_millis(100);

/// The partitions of a class for a week.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredWeek {
    /// The week.
    pub week: Week,
    /// Bytes of its partitions, with indexes.
    pub bytes: i64,
    /// Estimated number of rows of its first table.
    pub rows: i64,
}

/// Returns the weeks for which a class has partitions, oldest first.
pub async fn stored(db: &Db, class: Class) -> Result<Vec<StoredWeek>, DbError> {
    let tables: Vec<String> = class.tables().iter().map(|table| (*table).to_owned()).collect();
    let query = sqlx::query!(
        r#"SELECT p.relname::text AS "parent!", c.relname::text AS "name!", pg_total_relation_size(c.oid) AS "bytes!",
                  greatest(c.reltuples, 0)::bigint AS "rows!"
           FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
           WHERE i.inhparent = ANY (SELECT to_regclass(name) FROM unnest($1::text[]) AS t (name))"#,
        &tables
    );
    let mut weeks = std::collections::BTreeMap::<Week, StoredWeek>::new();
    for row in db.timed("retention.weeks.stored", query.fetch_all(&db.pool)).await? {
        let Some(week) = Week::of_partition(&row.parent, &row.name) else { continue };
        let entry = weeks.entry(week).or_insert(StoredWeek { week, bytes: 0, rows: 0 });
        entry.bytes += row.bytes;
        entry.rows += if Some(row.parent.as_str()) == class.tables().first().copied() { row.rows } else { 0 };
    }
    Ok(weeks.into_values().collect())
}

/// Drops the partitions of a class for a week, and records it. Returns whether it did; if not, other transactions held locks, and the
/// next run tries again.
pub async fn drop_week(db: &Db, class: Class, week: Week, now: DateTime<Utc>) -> Result<bool, DbError> {
    let mut pause = PAUSE;
    for attempt in 1..=TRIES {
        let statements = sqlx::raw_sql(sqlx::AssertSqlSafe(drop_statements(class, week, now)));
        let dropped = db.timed("retention.weeks.drop", statements.execute(&db.pool));
        match dropped.await {
            Ok(_) => return Ok(true),
            Err(error) if error.is_locked_out() || error.is_too_slow() => {
                tracing::debug!(class = class.as_str(), %week, attempt, %error, "a week's partitions are in use");
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    Ok(false)
}

/// Returns the statements that drop a week. The server runs them in one transaction, which ends with the last of them.
fn drop_statements(class: Class, week: Week, now: DateTime<Utc>) -> String {
    let (name, tables) = (class.as_str(), class.tables().join("', '"));
    let [week, now] = [week.start(), now].map(|time| time.to_rfc3339());
    let (lock_limit, drop_limit) = (LOCK_LIMIT.as_millis(), DROP_LIMIT.as_millis());
    format!(
        "SET LOCAL lock_timeout = '{lock_limit}ms';
         SET LOCAL synchronous_commit = local;
         SELECT record_dropped_week('{name}', '{week}', '{now}');
         SET LOCAL statement_timeout = '{drop_limit}ms';
         SELECT drop_partitions(ARRAY['{tables}'], '{week}')"
    )
}

/// Records that a week was examined, and why it is kept.
pub async fn note_kept(
    db: &Db,
    class: Class,
    week: Week,
    protected: &[String],
    now: DateTime<Utc>,
) -> Result<(), DbError> {
    let query = sqlx::query!(
        "INSERT INTO retention_weeks (class, week, examined_at, protected) VALUES ($1, $2, $3, $4)
         ON CONFLICT (class, week) DO UPDATE SET examined_at = excluded.examined_at, protected = excluded.protected",
        class.as_str(),
        week.start(),
        now,
        protected
    );
    db.timed("retention.weeks.note", query.execute(&db.pool)).await.map(drop)
}

/// Records that no recipient of a week's messages is to be sent to any more, if that was not known before.
pub async fn note_ended(db: &Db, week: Week, now: DateTime<Utc>) -> Result<(), DbError> {
    let query = sqlx::query!(
        "INSERT INTO retention_weeks AS w (class, week, examined_at, ended_at) VALUES ($1, $2, $3, $3)
         ON CONFLICT (class, week) DO UPDATE SET ended_at = coalesce(w.ended_at, excluded.ended_at)",
        Class::Messages.as_str(),
        week.start(),
        now
    );
    db.timed("retention.weeks.note_ended", query.execute(&db.pool)).await.map(drop)
}

/// Returns when it was first known that no recipient of a week's messages is to be sent to any more.
pub async fn ended_at(db: &Db, week: Week) -> Result<Option<DateTime<Utc>>, DbError> {
    let query = sqlx::query_scalar!(
        "SELECT ended_at FROM retention_weeks WHERE class = $1 AND week = $2",
        Class::Messages.as_str(),
        week.start()
    );
    Ok(db.timed("retention.weeks.ended_at", query.fetch_optional(&db.pool)).await?.flatten())
}

/// Records that all content of a week was read ([`super::content::passed`]), and nothing in it was protected.
pub async fn note_read(db: &Db, week: Week, passed: &str, now: DateTime<Utc>) -> Result<(), DbError> {
    let query = sqlx::query!(
        "INSERT INTO retention_weeks (class, week, examined_at, read_for) VALUES ($1, $2, $3, $4)
         ON CONFLICT (class, week) DO UPDATE SET read_for = excluded.read_for",
        Class::Content.as_str(),
        week.start(),
        now,
        passed
    );
    db.timed("retention.weeks.note_read", query.execute(&db.pool)).await.map(drop)
}

/// Returns what [`note_read`] has recorded for a week.
pub async fn read_for(db: &Db, week: Week) -> Result<Option<String>, DbError> {
    let query = sqlx::query_scalar!(
        "SELECT read_for FROM retention_weeks WHERE class = $1 AND week = $2",
        Class::Content.as_str(),
        week.start()
    );
    Ok(db.timed("retention.weeks.read_for", query.fetch_optional(&db.pool)).await?.flatten())
}

/// Returns the ranges of ids between the weeks for which a class has partitions, the first one from the smallest id on.
pub async fn gaps(db: &Db, class: Class) -> Result<Vec<(Uuid, Uuid)>, DbError> {
    let mut after = Uuid::nil();
    let mut gaps = Vec::new();
    for StoredWeek { week, .. } in stored(db, class).await? {
        let (first, end) = week.ids();
        if after < first {
            gaps.push((after, first));
        }
        after = end;
    }
    Ok(gaps)
}

/// Returns the weeks of a class that were examined since this time, and kept because something in them is protected.
pub async fn kept_since(db: &Db, class: Class, since: DateTime<Utc>) -> Result<Vec<Week>, DbError> {
    let query = sqlx::query_scalar!(
        "SELECT week FROM retention_weeks
         WHERE class = $1 AND examined_at > $2 AND cardinality(protected) > 0 AND dropped_at IS NULL",
        class.as_str(),
        since
    );
    let weeks = db.timed("retention.weeks.kept", query.fetch_all(&db.pool)).await?;
    Ok(weeks.into_iter().map(Week::containing).collect())
}

/// Returns whether a class has a partition for a week.
pub async fn exists(db: &Db, class: Class, week: Week) -> Result<bool, DbError> {
    Ok(stored(db, class).await?.iter().any(|stored| stored.week == week))
}
