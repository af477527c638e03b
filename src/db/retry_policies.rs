//! `streams`: how often and how long the mail of a stream is tried, where that is not as configured.

use uuid::Uuid;

use super::{Db, DbError};

/// A stream's own settings; null means as configured.
#[derive(Debug, Clone)]
pub struct RetryRow {
    /// Whose stream.
    pub tenant_id: Uuid,
    /// The stream.
    pub stream: String,
    /// Seconds after the first, second, … attempt.
    pub schedule: Option<Vec<i32>>,
    /// Seconds from the first due time to giving up.
    pub window: Option<i32>,
    /// Seconds after greylisting.
    pub greylist: Option<i32>,
}

/// The streams of all tenants that have settings of their own.
pub async fn all(db: &Db) -> Result<Vec<RetryRow>, DbError> {
    let query = sqlx::query_as!(
        RetryRow,
        r#"SELECT tenant_id, name AS stream, retry_schedule AS schedule, retry_window AS "window", greylist FROM streams
           WHERE num_nonnulls(retry_schedule, retry_window, greylist) > 0"#
    );
    db.timed("retry_policies.all", query.fetch_all(&db.pool)).await
}
