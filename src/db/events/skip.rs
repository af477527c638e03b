//! Skips event numbers after a restore: numbers that were used after the restored state must not be used for other events,
//! because readers and webhook consumers have seen them.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::domain::event::EventType;
use crate::domain::installation::restore::SKIPPED_EVENT_NUMBERS;

/// Skips numbers in the feed of each tenant, and appends the event that says so. Called as the last statement of a
/// transaction, like [`super::append`], and locks the counters in the order of the tenants.
pub(in crate::db) async fn skip_numbers(connection: &mut PgConnection, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "WITH unlimited AS MATERIALIZED (SELECT set_config('lock_timeout', '0', true)),
         locked AS MATERIALIZED (SELECT c.tenant_id FROM unlimited, event_counters c ORDER BY c.tenant_id FOR UPDATE OF c),
         skipped AS (
             UPDATE event_counters c SET last_seq = c.last_seq + $1::bigint + 1
             FROM locked WHERE c.tenant_id = locked.tenant_id
             RETURNING c.tenant_id, c.last_seq)
         INSERT INTO events (tenant_id, seq, recorded_at, type, response_text)
         SELECT tenant_id, last_seq, $2, $3,
                'The database was restored to an earlier state. Events after number ' || last_seq - $1::bigint - 1
                || ' that were read before the restore do not exist any more, and their numbers are not used again.'
         FROM skipped",
        SKIPPED_EVENT_NUMBERS,
        now,
        EventType::FeedRestored.as_str()
    )
    .execute(connection)
    .await
    .map(drop)
}
