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

/// Shortest interval between two claims while there is something to claim. A claim costs about 2 ms of Postgres' time even
/// for one recipient, so that larger claims win. The first claim after an idle time starts at once.
const MIN_CLAIM_INTERVAL: Duration = Duration::from_millis(10);
/// How long an idle worker waits for a notification before it claims on its own.
const IDLE_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The same for a worker at its capacity, which is notified when capacity is free.
const FULL_POLL_INTERVAL: Duration = Duration::from_secs(10);
/// Claims in a row that allocate what earlier ones left over: after each at least the most urgent of the lanes that left it
/// are skipped.
const ALLOCATION_ROUNDS: usize = 4;

/// What a claim led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claimed {
    /// Some recipients: claim again at once.
    Some,
    /// Nothing that there is capacity for.
    Nothing,
    /// Nothing, since nothing is due.
    Everything,
    /// Nothing, since the worker is at its capacity.
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
            let claimed = self.once().await;
            let pause = match &claimed {
                Ok(Claimed::Some) => {
                    tokio::time::sleep_until(started + MIN_CLAIM_INTERVAL).await;
                    continue;
                }
                Ok(Claimed::Nothing | Claimed::Everything) => {
                    let until_open = self.claimer.until_open(self.claim.clock.now());
                    until_open.map_or(IDLE_POLL_INTERVAL, |wait| wait.min(IDLE_POLL_INTERVAL))
                }
                Ok(Claimed::AtCapacity) => FULL_POLL_INTERVAL,
                Err(error) => {
                    // Every second while the database is unreachable.
                    if let Some(times) = failed.note(tokio::time::Instant::now()) {
                        tracing::warn!(event = "claim_failed", %error, times, "failed to claim; trying again");
                    }
                    IDLE_POLL_INTERVAL
                }
            };
            // No recipient waits for capacity.
            let is_idle = matches!(claimed, Ok(Claimed::Everything));
            tokio::select! {
                () = stop.cancelled() => {}
                () = wake.notified(), if pause != FULL_POLL_INTERVAL => {}
                () = in_flight.released(), if !is_idle => {}
                () = in_flight.requeued() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Claims until nothing is due and nothing in flight.
    pub(crate) async fn drain(mut self) -> Result<(), DbError> {
        let in_flight = self.claim.leases.in_flight.clone();
        loop {
            // Before the claim: recipients that are released during the claim may be due again.
            let was_empty = in_flight.is_empty();
            match Box::pin(self.once()).await? {
                Claimed::Some => {}
                Claimed::Nothing | Claimed::Everything if was_empty => return Ok(()),
                Claimed::Nothing | Claimed::Everything if in_flight.is_empty() => {}
                Claimed::Nothing | Claimed::Everything | Claimed::AtCapacity => in_flight.released().await,
            }
        }
    }

    /// Claims once, and again for lanes without a quota where others did not use theirs.
    async fn once(&mut self) -> Result<Claimed, DbError> {
        let leases = self.claim.leases.clone();
        let Some(worker) = leases.worker() else {
            // The next heartbeat confirms this id or registers another.
            return Ok(Claimed::Nothing);
        };
        leases.return_permits(|lane| self.claim.sender.open_connections(lane)).await?;
        if leases.in_flight.free() == 0 {
            self.gate.set_open(false);
            return Ok(Claimed::AtCapacity);
        }
        let now = self.claim.clock.now();
        let mut skip = self.claimer.skipped(now);
        let mut claimed = Claimed::Nothing;
        for round in 0..ALLOCATION_ROUNDS {
            let claim = self.claimer.claim(worker, &skip, now).await?;
            let (recipients, took_all) = (claim.recipients, claim.took_all);
            let (below_quota, has_unserved_lanes) = (claim.below_quota.clone(), claim.has_unserved_lanes);
            let is_loaded = self.start(claim, now).await;
            // The first round only: what later rounds skip was claimed before.
            if round == 0 {
                self.gate.set_open(took_all);
            }
            if recipients > 0 {
                claimed = Claimed::Some;
            } else if round == 0 && took_all {
                claimed = Claimed::Everything;
            }
            if !is_loaded {
                return Ok(Claimed::Nothing);
            }
            if !has_unserved_lanes || below_quota.is_empty() {
                break;
            }
            skip.extend(below_quota);
        }
        Ok(if self.claimer.take_unused() { Claimed::Some } else { claimed })
    }

    /// Starts the deliveries of a claim. Returns `false` where the database is unreachable.
    async fn start(&mut self, claim: Claim, now: DateTime<Utc>) -> bool {
        self.gate.note_claim(&claim.ready);
        let due = self.watermarks.due(claim.lanes, now, Instant::now());
        let new = quarantined::start(&self.deliver, claim.new);
        // At the same time: no delivery waits for a watermark.
        let (is_loaded, raised) = tokio::join!(
            Box::pin(dispatch::load_and_start(&self.deliver, new)),
            ready_watermark::raise(&self.claim.db, &due)
        );
        self.watermarks.note(&raised, Instant::now());
        is_loaded
    }
}
