//! The loop of a worker: claims due recipients, starts their deliveries, and waits until another claim is worthwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::claim::ClaimContext;
use super::claim::claimer::{Claim, Claimer};
use super::deliver::{DeliverContext, dispatch, quarantined};
use super::handoff::gate::HandoffGate;
use super::maintenance::ready_watermark::{self, ReadyWatermarks};
use crate::db::DbError;
use crate::telemetry::RateLimitedLog;

/// Minimum interval between two claims while recipients are due. A claim costs about 2 ms of Postgres' time even for
/// one recipient, so larger claims are better. The first claim after an idle time starts at once.
const MIN_CLAIM_INTERVAL: Duration = Duration::from_millis(10);
/// How long an idle worker waits for a notification before it claims without one.
const IDLE_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The same for a worker at its capacity, which is notified when capacity is free.
const FULL_POLL_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum number of consecutive claims. Each one after the first allocates the capacity that the one before left over,
/// and skips the lanes that did not use their quotas.
const ALLOCATION_ROUNDS: usize = 4;

/// The result of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClaimResult {
    /// Recipients were claimed: claim again at once.
    Recipients,
    /// No recipient was claimed, or the claimed messages could not be loaded. Recipients may still be due, for example
    /// in lanes at their limits.
    Nothing,
    /// No recipient is due.
    NothingDue,
    /// The worker is at its capacity.
    AtCapacity,
}

/// Claims and starts deliveries.
#[derive(Debug)]
pub(crate) struct ClaimLoop {
    claim: Arc<ClaimContext>,
    deliver: Arc<DeliverContext>,
    gate: Arc<HandoffGate>,
    claimer: Claimer,
    watermarks: ReadyWatermarks,
}

impl ClaimLoop {
    pub(crate) fn new(claim: Arc<ClaimContext>, deliver: Arc<DeliverContext>, gate: Arc<HandoffGate>) -> Self {
        let claimer = Claimer::new(claim.clone());
        Self { claim, deliver, gate, claimer, watermarks: ReadyWatermarks::default() }
    }

    /// Claims until `stop`.
    pub(crate) async fn run(mut self, stop: &CancellationToken, wake: &Notify) {
        let in_flight = self.claim.leases.in_flight.clone();
        let failed = RateLimitedLog::default();
        while !stop.is_cancelled() {
            let started = tokio::time::Instant::now();
            let claimed = self.claim_once().await;
            let pause = match &claimed {
                Ok(ClaimResult::Recipients) => {
                    tokio::time::sleep_until(started + MIN_CLAIM_INTERVAL).await;
                    continue;
                }
                Ok(ClaimResult::Nothing | ClaimResult::NothingDue) => {
                    let until_open = self.claimer.until_open(self.claim.clock.now());
                    until_open.map_or(IDLE_POLL_INTERVAL, |wait| wait.min(IDLE_POLL_INTERVAL))
                }
                Ok(ClaimResult::AtCapacity) => FULL_POLL_INTERVAL,
                Err(error) => {
                    // Claims fail every second while the database is unreachable.
                    if let Some(times) = failed.note(tokio::time::Instant::now()) {
                        tracing::warn!(event = "claim_failed", %error, times, "failed to claim; trying again");
                    }
                    IDLE_POLL_INTERVAL
                }
            };
            // If no recipient is due, none waits for capacity.
            let is_idle = matches!(claimed, Ok(ClaimResult::NothingDue));
            tokio::select! {
                () = stop.cancelled() => {}
                () = wake.notified(), if pause != FULL_POLL_INTERVAL => {}
                () = in_flight.released(), if !is_idle => {}
                () = in_flight.requeued() => {}
                () = tokio::time::sleep(pause) => {}
            }
            if !is_idle {
                // A busy worker releases recipients all the time, and each release ends the wait above.
                tokio::time::sleep_until(started + MIN_CLAIM_INTERVAL).await;
            }
        }
    }

    /// Claims until no recipient is due and none is in flight.
    pub(crate) async fn drain(mut self) -> Result<(), DbError> {
        let in_flight = self.claim.leases.in_flight.clone();
        loop {
            // Checked before the claim: recipients that are released during the claim may be due again.
            let was_empty = in_flight.is_empty();
            match Box::pin(self.claim_once()).await? {
                ClaimResult::Recipients => {}
                ClaimResult::Nothing | ClaimResult::NothingDue if was_empty => return Ok(()),
                ClaimResult::Nothing | ClaimResult::NothingDue if in_flight.is_empty() => {}
                ClaimResult::Nothing | ClaimResult::NothingDue | ClaimResult::AtCapacity => in_flight.released().await,
            }
        }
    }

    /// Claims once, and again for lanes without a quota if other lanes did not use theirs.
    async fn claim_once(&mut self) -> Result<ClaimResult, DbError> {
        let leases = self.claim.leases.clone();
        let Some(worker) = leases.worker() else {
            // This worker's lease may have expired, and the next heartbeat confirms its id or registers a new one; or the
            // restore guard holds, and what waits meanwhile is older than new messages.
            self.gate.set_open(false);
            return Ok(ClaimResult::Nothing);
        };
        leases.return_permits(|lane| self.claim.sender.open_connections(lane)).await?;
        if leases.in_flight.free() == 0 {
            self.gate.set_open(false);
            return Ok(ClaimResult::AtCapacity);
        }
        let now = self.claim.clock.now();
        let mut skip = self.claimer.skipped(now);
        let mut claimed = ClaimResult::Nothing;
        for round in 0..ALLOCATION_ROUNDS {
            let claim = self.claimer.claim(worker, &skip, now).await?;
            let (recipients, claimed_all_due) = (claim.recipients, claim.claimed_all_due);
            let (below_quota, has_unserved_lanes) = (claim.below_quota.clone(), claim.has_unserved_lanes);
            let is_loaded = self.start(claim, now).await;
            // Only the first round shows whether recipients remain due: later rounds skip lanes.
            if round == 0 {
                self.gate.set_open(claimed_all_due);
            }
            if recipients > 0 {
                claimed = ClaimResult::Recipients;
            } else if round == 0 && claimed_all_due {
                claimed = ClaimResult::NothingDue;
            }
            if !is_loaded {
                return Ok(ClaimResult::Nothing);
            }
            if !has_unserved_lanes || below_quota.is_empty() {
                break;
            }
            skip.extend(below_quota);
        }
        // Other lanes of a limited stream can use the capacity that the claimed lanes left: claim again at once.
        Ok(if self.claimer.take_unused_stream_capacity() { ClaimResult::Recipients } else { claimed })
    }

    /// Starts the deliveries of a claim. Returns `false` if the database is unreachable.
    async fn start(&mut self, claim: Claim, now: DateTime<Utc>) -> bool {
        self.gate.note_claim(&claim.ready);
        let due = self.watermarks.due(claim.lanes, now, Instant::now());
        let new = quarantined::start(&self.deliver, claim.new);
        // Concurrently, so that no delivery waits for a watermark.
        let (is_loaded, raised) = tokio::join!(
            Box::pin(dispatch::load_and_start(&self.deliver, new)),
            ready_watermark::raise(&self.claim.db, &due)
        );
        self.watermarks.note(&raised, Instant::now());
        is_loaded
    }
}
