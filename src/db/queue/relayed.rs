//! Failures of messages that pass a received message on. The row in `relays` is marked in the transaction that records the
//! failure, so that no sender is left without a report.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::Finished;
use crate::domain::delivery::Status;

/// Marks the rows of messages that bounced or expired, unless there is a report already, and ends their claims: a process that works on an
/// earlier failure, and has seen that the message was queued again, must not close the row. Runs no statement if none of the messages can
/// pass a received message on.
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
    sqlx::query!(
        "WITH failed AS MATERIALIZED (
             SELECT tenant_id, received_id, position FROM relays WHERE message_id = ANY ($1) AND report_id IS NULL
             ORDER BY tenant_id, received_id, position FOR UPDATE)
         UPDATE relays r SET failed_at = $2, claimed_until = '-infinity' FROM failed f
         WHERE r.tenant_id = f.tenant_id AND r.received_id = f.received_id AND r.position = f.position",
        &failed,
        now
    )
    .execute(connection)
    .await
    .map(drop)
}
