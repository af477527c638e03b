//! Scans of whole tables, which may take longer than any other statement of the service, and how to avoid them.

use std::time::Duration;

use sqlx::PgConnection;

/// Time limit of a scan of a whole table.
pub(in crate::db) const SCAN_LIMIT: Duration = Duration::from_mins(2);

/// Raises the statement timeout of this transaction to [`SCAN_LIMIT`].
pub(in crate::db) async fn allow_scan(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT set_config('statement_timeout', $1, true)", format!("{}s", SCAN_LIMIT.as_secs()))
        .fetch_one(connection)
        .await
        .map(|_| ())
}

/// Keeps the later statements of this transaction from scanning tables. A new partition has no statistics, and those of another
/// one may be older than most of its rows: Postgres might scan it to find a few rows.
pub(in crate::db) async fn avoid_scans(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "SELECT set_config('enable_seqscan', 'off', true) AS seqscan, set_config('enable_hashjoin', 'off', true) AS hashjoin,
                set_config('enable_mergejoin', 'off', true) AS mergejoin"
    )
    .fetch_one(connection)
    .await
    .map(|_| ())
}

/// Lets the later statements of this transaction look up lists of some hundred rows by their keys, as on hot connections (see
/// `Pool::hot`): their plans are kept, because to plan an update of the partitions of many weeks takes longer than the update.
///
/// A join of such a list with a table must use `key = ANY (ARRAY[list.key])` on the first column of the table's key, and take
/// the other columns of the key from the list, too: Postgres might otherwise compare all rows of a tenant with the list. A
/// `LATERAL` query that locks its row needs neither, because it runs once for each item of the list.
pub(in crate::db) async fn look_up_by_keys(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    avoid_scans(connection).await?;
    sqlx::query!("SELECT set_config('plan_cache_mode', 'force_generic_plan', true) AS plans")
        .fetch_one(connection)
        .await
        .map(|_| ())
}
