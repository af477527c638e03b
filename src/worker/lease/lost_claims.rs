//! Finds recipients that are leased to this worker without its knowledge: the claim was committed, but its response was
//! lost. No other worker may claim them while this one lives.
//!
//! The search runs after a failed claim, and periodically: a response may be lost without an error, for example if a
//! pooler mixes up the responses of two connections. Other statements may have been lost with it, so the periodic
//! search also releases leases of unknown workers, and lowers `ready_at` of lanes whose first recipient is due earlier.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Leases, count_uncertain};
use crate::db::{DbError, lanes, queue, workers};

/// The time after which Postgres has given up a broken connection (see `db`). Until then, a claim in the connection's
/// buffers can still reach Postgres, when the network is back.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(25);
/// Margin added to the longest time that a statement may take.
const MARGIN: Duration = Duration::from_secs(1);

/// Minimum pause between two periodic searches.
const SEARCH_INTERVAL: Duration = Duration::from_mins(5);
/// Minimum pause between two periodic searches, as a multiple of the time that the last one took, without its own
/// pause: Postgres spends at most a 200th of the time on searches.
const PAUSE_PER_SEARCH: u32 = 200;

pub(crate) async fn run(leases: Arc<Leases>) {
    let mut pause = SEARCH_INTERVAL;
    loop {
        tokio::select! {
            () = leases.claim_lost.notified() => {}
            () = tokio::time::sleep(pause) => {
                let started = Instant::now();
                if let Err(error) = recover_all(&leases).await {
                    tracing::warn!(
                        event = "lease_check_failed",
                        %error,
                        "failed to look for leases without a worker; trying again in some minutes"
                    );
                }
                let duration = started.elapsed().saturating_sub(commit_time(leases.db.limit()));
                pause = SEARCH_INTERVAL.max(duration * PAUSE_PER_SEARCH);
                continue;
            }
        }
        let started = Instant::now();
        loop {
            let at = started.elapsed();
            let is_complete = match release_lost(&leases).await {
                Ok(found) => found.is_some(),
                Err(error) => {
                    tracing::warn!(
                        event = "lost_claim_check_failed",
                        %error,
                        "failed to look for recipients of a failed claim; trying again"
                    );
                    false
                }
            };
            if is_last_search(at, is_complete, leases.db.limit()) {
                break;
            }
            if !is_complete {
                tokio::time::sleep(MARGIN).await;
            }
        }
    }
}

/// Returns how long Postgres may take to commit a claim: its last statement and its commit, each up to the limit.
fn commit_time(limit: Duration) -> Duration {
    2 * limit + MARGIN
}

/// Returns whether a search that started `at` after a failed claim was the last one needed, because that claim can no
/// longer be committed. A search that failed does not count, because Postgres may be unreachable for long.
pub(crate) fn is_last_search(at: Duration, is_complete: bool, limit: Duration) -> bool {
    is_complete && at >= CONNECTION_TIMEOUT + commit_time(limit)
}

/// Releases every lease that no worker knows of, and corrects lanes whose `ready_at` is too late. Returns how many leases
/// and lanes there were in total.
pub(crate) async fn recover_all(leases: &Leases) -> Result<usize, DbError> {
    let orphans = workers::release_orphans(&leases.db, leases.clock.now()).await?;
    count_uncertain(&orphans);
    let lanes = lanes::correct_ready_at(&leases.db).await?;
    let lost = release_lost(leases).await?.unwrap_or(0);
    leases.permits.mark_uncertain();
    let leases_of_unknown_workers = orphans.released + orphans.held + orphans.uncertain;
    let found = leases_of_unknown_workers + lanes + lost;
    if found > 0 {
        tracing::warn!(
            event = "leases_recovered",
            leases_of_unknown_workers,
            leases_of_this_worker = lost,
            lanes,
            "released leases that no worker knows of, or corrected lanes"
        );
        leases.wake.notify_one();
    }
    Ok(found)
}

/// Releases recipients that are leased to this worker and not in flight. They are checked twice, with enough time in
/// between for the response to a claim in progress. Returns how many there were, or `None` while this worker may not
/// claim: it may have been declared dead, or the restore guard holds.
async fn release_lost(leases: &Leases) -> Result<Option<usize>, DbError> {
    let Some(worker) = leases.worker() else { return Ok(None) };
    let mut lost = queue::leased(&leases.db, worker).await?;
    lost.retain(|row| !leases.in_flight.contains(row));
    tokio::time::sleep(commit_time(leases.db.limit())).await;
    lost.retain(|row| !leases.in_flight.contains(row));
    let count = lost.len();
    if count > 0 {
        tracing::warn!(event = "claims_lost", recipients = count, "a claim got no response; releasing its recipients");
        leases.release(lost).await;
    }
    Ok(Some(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_continues_until_no_claim_can_be_committed() {
        let (seconds, limit) = (Duration::from_secs, Duration::from_secs(10));
        assert!(!is_last_search(seconds(0), true, limit) && !is_last_search(seconds(45), true, limit));
        assert!(is_last_search(seconds(46), true, limit));
        assert!(
            !is_last_search(Duration::from_hours(1), false, limit),
            "Postgres may have been unreachable for an hour"
        );
    }
}
