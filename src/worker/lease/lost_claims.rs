//! Finds recipients that are leased to this worker without its knowledge: a claim was committed and its answer lost.
//! Nobody else may take them while we live. Looked for where a claim failed, and now and then in any case: an answer may be lost
//! without a word, as where something between us and Postgres mixes up the answers of two connections. Then other things may
//! have been lost too, and are set right: leases of workers that are not known, and bounds of lanes above what waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::release;
use crate::db::{DbError, lanes, queue, workers};
use crate::worker::Parts;

/// A claim that lies in a dead link's buffers reaches Postgres when the link is back, at the latest when Postgres gives up
/// the connection (see `db`).
const LINK: Duration = Duration::from_secs(25);
/// Added to the longest time that anything here may take.
const MARGIN: Duration = Duration::from_secs(1);

/// Between two looks without a suspicion, at least.
const EVERY: Duration = Duration::from_mins(5);
/// The same, in lengths of a look: of all the time that Postgres has they take no more than the 200th part.
const LENGTHS: u32 = 200;

impl Parts {
    /// Takes note of a claim that failed: it may have been committed all the same.
    pub(crate) fn suspect(&self, error: &DbError) {
        if error.may_be_done() {
            self.suspect.notify_one();
            self.permits.doubt();
        }
    }
}

pub(crate) async fn run(parts: Arc<Parts>) {
    let mut pause = EVERY;
    loop {
        tokio::select! {
            () = parts.suspect.notified() => {}
            () = tokio::time::sleep(pause) => {
                let begun = Instant::now();
                if let Err(error) = look(&parts).await {
                    tracing::warn!(event = "lease_check_failed", %error, "could not look for what is leased to nobody");
                }
                pause = EVERY.max((begun.elapsed().saturating_sub(settles(parts.db.limit()))) * LENGTHS);
                continue;
            }
        }
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
pub(crate) fn is_last(at: Duration, was_had: bool, limit: Duration) -> bool {
    was_had && at >= LINK + settles(limit)
}

/// Looks for everything that nobody would ever come back to. Returns how much there was.
pub(crate) async fn look(parts: &Parts) -> Result<usize, DbError> {
    let freed = workers::free_orphans(&parts.db, parts.clock.now()).await?;
    let lanes = lanes::lower_wrong(&parts.db).await?;
    let lost = find(parts).await?.unwrap_or(0);
    parts.permits.doubt();
    let found = freed.freed + freed.held + freed.uncertain + lanes + lost;
    if found > 0 {
        tracing::warn!(
            event = "leases_recovered",
            leased_to_nobody = freed.freed + freed.held + freed.uncertain,
            leased_to_us = lost,
            lanes,
            "recipients waited that no worker would have come back to; releasing them"
        );
        parts.wake.notify_one();
    }
    Ok(found)
}

/// What is leased and not in hand, before and after any claim of this moment is answered, is nobody's. Answers whether it
/// could be looked at: not while we may have been declared dead.
async fn once(parts: &Parts) -> Result<bool, DbError> {
    find(parts).await.map(|found| found.is_some())
}

/// The same. Returns how many there were; none where it could not be looked at.
async fn find(parts: &Parts) -> Result<Option<usize>, DbError> {
    let Some(worker) = parts.identity.current() else { return Ok(None) };
    let mut lost = queue::leased(&parts.db, worker).await?;
    lost.retain(|row| !parts.in_flight.contains(row));
    tokio::time::sleep(settles(parts.db.limit())).await;
    lost.retain(|row| !parts.in_flight.contains(row));
    let count = lost.len();
    if count > 0 {
        tracing::warn!(event = "claims_lost", lost = count, "giving back recipients whose claim was not answered");
        release::release(&parts.db, &parts.in_flight, lost).await;
    }
    Ok(Some(count))
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
