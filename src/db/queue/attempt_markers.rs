//! Marks in `queue`: what is on record of an attempt while it lasts, for those who find the row after a crash. Whoever
//! frees a row takes them off.

use super::{Claimed, Fence};
use crate::db::{Db, DbError};

/// What is put on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptMarker {
    /// This worker begins with a recipient that was in hand at a crash before: another crash is blamed on it.
    Begun,
    /// The mail's text is about to be sent: after a crash nobody can know whether it arrived.
    DataStarted,
}

/// Marks all of these, or none. Answers `false`, with nothing written, where one of the claims no longer stands.
pub async fn set(db: &Db, claimed: &[Claimed], mark: AttemptMarker) -> Result<bool, DbError> {
    let rows = Fence::of(claimed.iter());
    db.timed("marks.set", async {
        let mut tx = db.pool.begin().await?;
        let marked = sqlx::query!(
            "UPDATE queue SET begun = begun OR $5, data_started = data_started OR $6
             FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::integer[]) AS u (message_id, recipient_id, lease, claims)
             WHERE queue.message_id = u.message_id AND queue.recipient_id = u.recipient_id
               AND queue.lease = u.lease AND queue.claims = u.claims",
            &rows.messages,
            &rows.recipients,
            &rows.leases,
            &rows.claims,
            mark == AttemptMarker::Begun,
            mark == AttemptMarker::DataStarted
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
