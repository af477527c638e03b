//! Finds recipients that are leased to this worker without its knowledge: a claim was committed and its answer lost.
//! Nobody else may take them while we live.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Parts, give_back};
use crate::db::DbError;
use crate::db::queue;

/// A claim that lies in a dead link's buffers reaches Postgres when the link is back, at the latest when Postgres gives up
/// the connection (see `db`).
const LINK: Duration = Duration::from_secs(25);
/// Added to the longest time that anything here may take.
const MARGIN: Duration = Duration::from_secs(1);

impl Parts {
    /// Takes note of a claim that failed: it may have been committed all the same.
    pub(super) fn suspect(&self, error: &DbError) {
        if error.may_be_done() {
            self.suspect.notify_one();
        }
    }
}

pub(super) async fn run(parts: Arc<Parts>) {
    loop {
        parts.suspect.notified().await;
        let begun = Instant::now();
        loop {
            let at = begun.elapsed();
            let was_had = once(&parts).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "could not look for recipients whose claim was not answered");
                false
            });
            if is_last(at, was_had, parts.db.limit()) {
                break;
            }
            if !was_had {
                tokio::time::sleep(MARGIN).await;
            }
        }
    }
}

/// How long a claim may take to be committed once Postgres has it: its last statement and its commit, each up to the limit.
fn settles(limit: Duration) -> Duration {
    2 * limit + MARGIN
}

/// Whether the look that began so long after the suspicion was the last that is needed: no claim of before it could be
/// committed any more. One that was not had does not count: while Postgres is away for long there is none.
pub(super) fn is_last(at: Duration, was_had: bool, limit: Duration) -> bool {
    was_had && at >= LINK + settles(limit)
}

/// What is leased and not in hand, before and after any claim of this moment is answered, is nobody's. Answers whether it
/// could be looked at: not while we may have been declared dead.
async fn once(parts: &Parts) -> Result<bool, DbError> {
    let Some(worker) = parts.identity.current() else { return Ok(false) };
    let mut lost = queue::leased(&parts.db, worker).await?;
    lost.retain(|row| !parts.hands.has(row));
    tokio::time::sleep(settles(parts.db.limit())).await;
    lost.retain(|row| !parts.hands.has(row));
    if !lost.is_empty() {
        tracing::warn!(lost = lost.len(), "giving back recipients whose claim was not answered");
        give_back::release(&parts.db, &parts.hands, lost).await;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_until_no_claim_can_be_committed_any_more_and_a_look_that_was_not_had_does_not_count() {
        let (seconds, limit) = (Duration::from_secs, Duration::from_secs(10));
        assert!(!is_last(seconds(0), true, limit) && !is_last(seconds(45), true, limit));
        assert!(is_last(seconds(46), true, limit));
        assert!(!is_last(Duration::from_hours(1), false, limit), "Postgres may have been away for an hour");
    }
}
