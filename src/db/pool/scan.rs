//! Scans of whole tables, which may take longer than any other statement of the service.

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
