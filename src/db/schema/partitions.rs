//! Weekly partitions of growing tables.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::db::{Db, DbError};

/// Partitioned tables.
pub(in crate::db) const TABLES: [&str; 7] =
    ["contents", "messages", "custom_message_ids", "recipients", "events", "webhook_attempts", "blob_references"];
/// How far ahead partitions are created.
const WEEKS_AHEAD: i32 = 2;
/// Maximum number of tries per partition. A try fails if another transaction has locked the table, or creates the
/// partition.
const TRIES: usize = 5;
/// Pause between tries.
const PAUSE: Duration = Duration::from_millis(200);

/// Creates missing partitions of this week and the coming ones, each in a separate transaction with a short lock
/// timeout, so that other transactions do not wait for long. Fails if a partition cannot be created after all tries.
pub async fn ensure(db: &Db, now: DateTime<Utc>) -> Result<(), DbError> {
    for week in 0..=WEEKS_AHEAD {
        for table in TABLES {
            let moment = now + TimeDelta::weeks(week.into());
            let mut tries = 1;
            while let Err(error) = ensure_one(db, table, moment).await {
                if !error.is_locked_out() || tries == TRIES {
                    return Err(error);
                }
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    Ok(())
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
