//! Attempt markers in `queue`: the progress of a running attempt, needed if the worker crashes. Releasing a row clears
//! them.

use super::{Claimed, Fence};
use crate::db::{Db, DbError};

/// A marker of a running attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptMarker {
    /// The worker starts an attempt for a quarantined recipient. If the worker crashes now, the crash counts against
    /// the recipient.
    Started,
    /// The message body is about to be sent. If the worker crashes now, the outcome is uncertain.
    DataStarted,
}

/// Sets a marker on all of these claims, or on none. Returns `false`, with nothing written, if any claim is stale.
pub async fn set(db: &Db, claimed: &[Claimed], marker: AttemptMarker) -> Result<bool, DbError> {
    let claim = Fence::new(claimed.iter());
    db.timed("queue.attempt_markers.set", async {
        let mut tx = db.pool.begin().await?;
        let marked = sqlx::query!(
            "UPDATE queue SET begun = begun OR $5, data_started = data_started OR $6
             FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::integer[]) AS u (message_id, recipient_id, lease, claims)
             WHERE queue.message_id = u.message_id AND queue.recipient_id = u.recipient_id
               AND queue.lease = u.lease AND queue.claims = u.claims",
            &claim.message_id,
            &claim.recipient_id,
            &claim.lease,
            &claim.claims,
            marker == AttemptMarker::Started,
            marker == AttemptMarker::DataStarted
        )
        .execute(&mut *tx)
        .await?;
        let all = usize::try_from(marked.rows_affected()).ok() == Some(claimed.len());
        if all {
            tx.commit().await?;
        } else {
            tx.rollback().await?;
        }
        Ok(all)
    })
    .await
}
