//! `lanes.ready_at`: lowered by every transaction that adds rows to a lane or releases them in it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

/// A row that was added to a lane, or released in it.
#[derive(Debug, Clone, Copy)]
pub struct Lowered {
    /// `lanes.id`.
    pub lane: i64,
    /// When the row is due.
    pub due_at: DateTime<Utc>,
}

/// Lowers `ready_at` of the lanes to when their new rows are due.
pub(in crate::db) async fn lower(
    connection: &mut PgConnection,
    rows: impl IntoIterator<Item = Lowered>,
) -> Result<(), sqlx::Error> {
    let mut earliest = BTreeMap::new();
    for row in rows {
        let due = earliest.entry(row.lane).or_insert(row.due_at);
        *due = row.due_at.min(*due);
    }
    if earliest.is_empty() {
        return Ok(());
    }
    // In the order of their ids, so that two commits never wait for each other.
    let (ids, due): (Vec<i64>, Vec<DateTime<Utc>>) = earliest.into_iter().unzip();
    sqlx::query!("SELECT lower_lanes($1, $2)", &ids, &due).execute(connection).await?;
    Ok(())
}

/// Marks lanes as having something due now, because an operator or application asked for a retry. If a lane's destination is
/// unreachable, its next probe is made now. Its rate limit still applies.
pub(in crate::db) async fn wanted_now(
    connection: &mut PgConnection,
    lanes: impl Iterator<Item = i64>,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let lanes: Vec<i64> = lanes.collect();
    // Both updates below lock some of these rows. Lock all of them in the order of their ids, as workers do, so that two
    // transactions never deadlock.
    sqlx::query!("SELECT id FROM lanes WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE", &lanes)
        .fetch_all(&mut *connection)
        .await?;
    lower(connection, lanes.iter().map(|lane| Lowered { lane: *lane, due_at: now })).await?;
    sqlx::query!(
        "UPDATE lanes SET open_at = $2 WHERE id = ANY ($1) AND blocked_since IS NOT NULL AND open_at > $2",
        &lanes,
        now
    )
    .execute(connection)
    .await?;
    Ok(())
}
