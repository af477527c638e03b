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

/// Lets the later statements of this transaction look up rows by their keys, as they must with lists of some hundred keys. A
/// new partition has no statistics, and those of another one may be older than most of its rows: Postgres might scan it to
/// find the rows. As on hot connections (see `Pool::hot`), a join with a list must use `key = ANY (ARRAY[list.key])` on the
/// first column of the table's key; and all columns of the key must come from the list, because Postgres might find all rows
/// of one tenant and compare each of them with the list.
pub(in crate::db) async fn avoid_scans(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "SELECT set_config('enable_seqscan', 'off', true) AS seqscan, set_config('enable_hashjoin', 'off', true) AS hashjoin,
                set_config('enable_mergejoin', 'off', true) AS mergejoin"
    )
    .fetch_one(connection)
    .await
    .map(|_| ())
}
