//! Failures of messages that pass a received message on. The row in `relays` is marked in the transaction that records the
//! failure, so that no sender is left without a report.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::Finished;
use crate::domain::delivery::Status;

/// Marks the rows of messages that bounced or expired, unless there is a report already: an operator may have retried the message. Runs no statement if none of them can pass a received message on.
pub(super) async fn mark_failed(
    connection: &mut PgConnection,
    recorded: &[&Finished],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let has_failed =
        |f: &&&Finished| f.may_be_relayed && matches!(f.transition.status(), Status::Bounced | Status::Expired);
    let failed: Vec<Uuid> = recorded.iter().filter(has_failed).map(|f| f.claimed.message_id).collect();
    if failed.is_empty() {
        return Ok(());
    }
    sqlx::query!("UPDATE relays SET failed_at = $2 WHERE message_id = ANY ($1) AND report_id IS NULL", &failed, now)
        .execute(connection)
        .await
        .map(drop)
}
