//! Lowers `lanes.ready_at`. Every transaction that adds rows to a lane or releases rows of it calls [`lower`].

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

/// An unleased row that a transaction added to a lane or released.
#[derive(Debug, Clone, Copy)]
pub struct DueRow {
    /// `lanes.id`.
    pub lane: i64,
    /// When the row is due.
    pub due_at: DateTime<Utc>,
}

/// Lowers `ready_at` of the rows' lanes to the earliest due time of these rows, where it is higher.
pub(in crate::db) async fn lower(
    connection: &mut PgConnection,
    rows: impl IntoIterator<Item = DueRow>,
) -> Result<(), sqlx::Error> {
    let mut earliest = BTreeMap::new();
    for row in rows {
        let due = earliest.entry(row.lane).or_insert(row.due_at);
        *due = row.due_at.min(*due);
    }
    if earliest.is_empty() {
        return Ok(());
    }
    // In the order of their ids, so that two transactions never wait for each other.
    let (ids, due): (Vec<i64>, Vec<DateTime<Utc>>) = earliest.into_iter().unzip();
    sqlx::query!("SELECT lower_lanes($1, $2)", &ids, &due).execute(connection).await?;
    Ok(())
}

/// Lowers `ready_at` of lanes to now, because rows of them were made due by a request. If a lane's destination is
/// unreachable, its next probe is due now. Rate limits still apply.
pub(in crate::db) async fn mark_due_now(
    connection: &mut PgConnection,
    lanes: impl Iterator<Item = i64>,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let lanes: Vec<i64> = lanes.collect();
    // Both updates below lock some of these rows. Lock all of them in the order of their ids, as workers do, so that
    // two transactions never deadlock.
    sqlx::query!("SELECT id FROM lanes WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE", &lanes)
        .fetch_all(&mut *connection)
        .await?;
    lower(connection, lanes.iter().map(|lane| DueRow { lane: *lane, due_at: now })).await?;
    sqlx::query!(
        "UPDATE lanes SET open_at = $2 WHERE id = ANY ($1) AND blocked_since IS NOT NULL AND open_at > $2",
        &lanes,
        now
    )
    .execute(connection)
    .await?;
    Ok(())
}
