//! Weekly partitions of growing tables.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::db::{Db, DbError};

/// Partitioned tables.
pub(in crate::db) const TABLES: [&str; 7] =
    ["contents", "messages", "custom_message_ids", "recipients", "events", "webhook_attempts", "blob_references"];
/// How far ahead partitions are created.
const WEEKS_AHEAD: i32 = 4;
/// Maximum number of tries per partition. A try fails if another transaction has locked the table, or creates the
/// partition.
const TRIES: usize = 5;
/// Pause between tries.
const PAUSE: Duration = Duration::from_millis(200);

/// Creates missing partitions of this week and the coming ones, each in a separate transaction with a short lock
/// timeout, so that other transactions do not wait for long. Fails if a partition cannot be created after all tries.
pub async fn ensure(db: &Db, now: DateTime<Utc>) -> Result<(), DbError> {
    for (table, moment) in missing(db, now).await? {
        let mut tries = 1;
        while let Err(error) = ensure_one(db, &table, moment).await {
            if !error.is_locked_out() || tries == TRIES {
                return Err(error);
            }
            tries += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

/// Returns the tables and moments of missing partitions, this week first.
async fn missing(db: &Db, now: DateTime<Utc>) -> Result<Vec<(String, DateTime<Utc>)>, DbError> {
    let tables = TABLES.map(str::to_owned);
    let moments: Vec<DateTime<Utc>> = (0..=WEEKS_AHEAD).map(|week| now + TimeDelta::weeks(week.into())).collect();
    let query = sqlx::query!(
        r#"SELECT t.name AS "name!", w.moment AS "moment!"
           FROM unnest($1::text[]) WITH ORDINALITY AS t (name, position), unnest($2::timestamptz[]) AS w (moment)
           WHERE to_regclass(format('%s_%s', t.name, to_char(date_trunc('week', w.moment, 'UTC') AT TIME ZONE 'UTC', 'YYYYMMDD')))
                 IS NULL
           ORDER BY w.moment, t.position"#,
        &tables,
        &moments
    );
    let rows = db.timed("partitions.missing", query.fetch_all(&db.pool)).await?;
    Ok(rows.into_iter().map(|row| (row.name, row.moment)).collect())
}

async fn ensure_one(db: &Db, table: &str, moment: DateTime<Utc>) -> Result<(), DbError> {
    db.timed("partitions.ensure", async {
        let mut tx = db.pool.begin().await?;
        sqlx::query!("SELECT set_config('lock_timeout', '300ms', true)").fetch_one(&mut *tx).await?;
        sqlx::query!("SELECT ensure_partition($1, $2)", table, moment).fetch_one(&mut *tx).await?;
        tx.commit().await
    })
    .await
}
