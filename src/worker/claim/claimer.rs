//! One claim: leases due recipients of the ready lanes, up to the quota of each lane.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::ClaimContext;
use super::allocation::{self, LaneQuota};
use super::turns::Turns;
use crate::db::DbError;
use crate::db::lanes::limits::{Request, StreamKey};
use crate::db::lanes::{self, ReadyLane};
use crate::db::queue::{self, ClaimQuota, Claimed};
use crate::metrics::METRICS;
use crate::worker::lease::in_flight::LaneInFlight;
use crate::worker::lease::permits::stream_message_count;

/// Maximum number of lanes of a stream that are considered in one claim.
const MAX_LANES_PER_STREAM: i64 = 512;
/// Maximum number of lanes of a tenant that are considered in one claim, the most urgent ones first, so that a tenant with
/// very many streams and domains does not make the claims of all others slow.
const MAX_LANES_PER_TENANT: i64 = 2_048;
/// How long this worker skips a lane whose connections other workers use up.
const FULL_LANE_PAUSE: Duration = Duration::from_secs(1);

/// Claims, and remembers between claims which limited lanes to skip, and whose turn it is.
#[derive(Debug)]
pub(crate) struct Claimer {
    cx: Arc<ClaimContext>,
    limited: LimitedLanes,
    turns: Turns,
}

#[derive(Debug, Default)]
struct LimitedLanes {
    /// Lanes whose limits other workers use up, with the time at which this was found.
    full: HashMap<i64, Instant>,
    /// When throttled lanes may send again.
    opens_at: BTreeSet<DateTime<Utc>>,
    /// Limited lanes with fewer due recipients than their limits allowed.
    emptied: Vec<i64>,
    /// Whether other lanes of a limited stream can use the capacity that the emptied lanes left.
    has_unused_stream_capacity: bool,
}

/// The result of one claim.
#[derive(Debug, Default)]
pub(crate) struct Claim {
    /// Claimed recipients that were not in flight before, and need a task.
    pub new: Vec<Claimed>,
    /// The number of recipients claimed.
    pub recipients: usize,
    /// The lanes with due recipients; empty if none of them got a quota.
    pub ready: Vec<Arc<ReadyLane>>,
    /// The result for each lane with a quota.
    pub lanes: Vec<LaneClaim>,
    /// Lanes from which fewer recipients were claimed than their quota.
    pub below_quota: Vec<i64>,
    /// Whether lanes with due recipients got no quota, and could use one.
    pub has_unserved_lanes: bool,
    /// Whether no lane has more due recipients than were claimed, and none has limits.
    pub claimed_all_due: bool,
}

/// The result of a claim for one lane.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneClaim {
    /// `lanes.id`.
    pub lane: i64,
    /// Whether recipients were claimed.
    pub has_claimed: bool,
    /// Whether the lane had fewer due recipients than its quota; for a lane with limits, fewer than these allowed.
    pub is_below_quota: bool,
    /// Whether new messages bypass the lane while it is empty ([`crate::worker::handoff`]).
    pub is_bypassed: bool,
}

/// Claimed recipients, and their number by lane.
#[derive(Default)]
struct Leased {
    new: Vec<Claimed>,
    by_lane: HashMap<i64, usize>,
}

impl Claimer {
    pub(crate) fn new(cx: Arc<ClaimContext>) -> Self {
        Self { cx, limited: LimitedLanes::default(), turns: Turns::default() }
    }

    /// Returns the time until the first throttled lane may send again.
    pub(crate) fn until_open(&self, now: DateTime<Utc>) -> Option<Duration> {
        self.limited.until_open(now)
    }

    /// Returns the lanes to skip: those whose limits other workers use up, and those whose destination only other
    /// workers can reach.
    pub(crate) fn skipped(&mut self, now: DateTime<Utc>) -> Vec<i64> {
        self.limited.remove_open(now);
        [self.limited.skipped(), self.cx.lane_stats.avoided(now)].concat()
    }

    /// Returns and resets whether a limited stream has capacity left that its other lanes can use, so that another
    /// claim is worthwhile.
    pub(crate) fn take_unused_stream_capacity(&mut self) -> bool {
        std::mem::take(&mut self.limited.has_unused_stream_capacity)
    }

    /// Allocates the free capacity among the lanes with due recipients, except those to `skip`, and claims.
    pub(crate) async fn claim(&mut self, worker: Uuid, skip: &[i64], now: DateTime<Utc>) -> Result<Claim, DbError> {
        let cx = self.cx.clone();
        let leases = &cx.leases;
        // Counted before the lanes are read. A failure that closes a lane is committed before its recipient is released,
        // so capacity that is free now never leads to another claim from a lane that was just closed.
        let (in_flight, free) = (leases.in_flight.usage(), leases.in_flight.free());
        let ready = lanes::ready(&cx.db, now, MAX_LANES_PER_STREAM, MAX_LANES_PER_TENANT, skip).await?;
        let ready: Vec<Arc<ReadyLane>> = ready.into_iter().map(Arc::new).collect();
        let recent = cx.recent(&ready, &in_flight, now);
        let allocation = allocation::allocate(&ready, &cx.capacity(free, &in_flight, &recent, &self.turns));
        let quotas = &allocation.quotas;
        if quotas.is_empty() {
            return Ok(Claim { claimed_all_due: ready.is_empty(), ..Claim::default() });
        }
        let leased = self.lease(worker, quotas, now).await.inspect_err(|error| leases.note_failed_claim(error))?;
        let count = |lane: i64| leased.by_lane.get(&lane).copied().unwrap_or(0);
        self.turns.record(&allocation, count);
        let below_quota: Vec<i64> =
            quotas.iter().filter(|quota| count(quota.lane.id) < quota.recipients).map(|quota| quota.lane.id).collect();
        let is_all = below_quota.len() == ready.len() && !ready.iter().any(|lane| lane.is_limited());
        let claimed_all_due = is_all && !is_cut_off(&ready);
        let has_quota = |lane: &ReadyLane| quotas.iter().any(|quota| quota.lane.id == lane.id);
        let others: Vec<Arc<ReadyLane>> = ready.iter().filter(|lane| !has_quota(lane)).cloned().collect();
        let (in_flight, free) = (leases.in_flight.usage(), leases.in_flight.free());
        let left = cx.capacity(free, &in_flight, &recent, &self.turns);
        let has_unserved_lanes = !allocation::allocate(&others, &left).quotas.is_empty();
        Ok(Claim {
            recipients: leased.by_lane.values().sum(),
            lanes: self.lane_claims(quotas, count),
            new: leased.new,
            below_quota,
            has_unserved_lanes,
            claimed_all_due,
            ready,
        })
    }

    /// Claims from the lanes without limits, and then from those with limits.
    async fn lease(&mut self, worker: Uuid, quotas: &[LaneQuota], now: DateTime<Utc>) -> Result<Leased, DbError> {
        let cx = self.cx.clone();
        let leases = &cx.leases;
        let usable = || allocation::usable_by_all(leases.in_flight.capacity(), leases.in_flight.free(), quotas);
        let lanes: Vec<Arc<ReadyLane>> = quotas.iter().map(|quota| quota.lane.clone()).collect();
        let (limited, unlimited): (Vec<_>, Vec<_>) = quotas.iter().partition(|quota| quota.lane.is_limited());
        let unlimited: Vec<ClaimQuota> = unlimited.into_iter().map(claim_quota).collect();
        let mut leased = Leased::default();
        if !unlimited.is_empty() {
            let companions = if cx.one_recipient_per_envelope { 0 } else { usable() };
            let claimed = queue::claim(&cx.db, worker, &unlimited, companions, now).await?;
            leased.add(&cx, claimed, &lanes);
        }
        if limited.is_empty() {
            return Ok(leased);
        }
        let in_flight = leases.in_flight.by_lane();
        let requests: Vec<Request> = limited.into_iter().map(|quota| cx.limit_request(&in_flight, quota)).collect();
        match Box::pin(lanes::limits::claim(&cx.db, worker, &requests, usable(), now)).await {
            Ok(granted) => {
                self.limited.opens_at.extend(granted.opens_at);
                self.limited.emptied = granted.emptied;
                self.limited.has_unused_stream_capacity |= granted.has_unused_stream_capacity;
                self.limited.full.extend(granted.full.iter().map(|lane| (*lane, Instant::now())));
                leases.permits.add(&granted.connections, granted.in_flight);
                leased.add(&cx, granted.claimed, &lanes);
                Ok(leased)
            }
            // The recipients claimed from other lanes must not be lost because of this error.
            Err(error) if !leased.by_lane.is_empty() => {
                tracing::warn!(
                    event = "limited_claim_failed",
                    %error,
                    "failed to claim from lanes with limits; trying again"
                );
                leases.note_failed_claim(&error);
                Ok(leased)
            }
            Err(error) => Err(error),
        }
    }

    fn lane_claims(&mut self, quotas: &[LaneQuota], count: impl Fn(i64) -> usize) -> Vec<LaneClaim> {
        let emptied = std::mem::take(&mut self.limited.emptied);
        let claim = |LaneQuota { lane, recipients }: &LaneQuota| {
            let count = count(lane.id);
            let is_below_quota = if lane.is_limited() { emptied.contains(&lane.id) } else { count < *recipients };
            LaneClaim {
                lane: lane.id,
                has_claimed: count > 0,
                is_below_quota,
                is_bypassed: lane.allows_direct_handoff(),
            }
        };
        quotas.iter().map(claim).collect()
    }
}

impl LimitedLanes {
    fn until_open(&self, now: DateTime<Utc>) -> Option<Duration> {
        self.opens_at.first().map(|at| (*at - now).to_std().unwrap_or_default())
    }

    fn remove_open(&mut self, now: DateTime<Utc>) {
        self.opens_at.retain(|at| *at > now);
    }

    fn skipped(&mut self) -> Vec<i64> {
        self.full.retain(|_, since| since.elapsed() < FULL_LANE_PAUSE);
        self.full.keys().copied().collect()
    }
}

impl Leased {
    /// Puts claimed recipients in flight at once, because recipients that are leased and not in flight count as lost
    /// ([`crate::worker::lease::lost_claims`]).
    fn add(&mut self, cx: &ClaimContext, claimed: Vec<Claimed>, lanes: &[Arc<ReadyLane>]) {
        METRICS.claimed.increment(claimed.len() as u64);
        for row in &claimed {
            *self.by_lane.entry(row.lane_id).or_default() += 1;
        }
        self.new.extend(cx.leases.in_flight.insert(claimed, lanes));
    }
}

/// Returns whether a stream or a tenant may have more ready lanes than these.
fn is_cut_off(ready: &[Arc<ReadyLane>]) -> bool {
    let is_full = |count: usize, limit: i64| i64::try_from(count).is_ok_and(|count| count >= limit);
    if !is_full(ready.len(), MAX_LANES_PER_STREAM) {
        return false;
    }
    let (mut by_stream, mut by_tenant) = (HashMap::<(Uuid, &str), usize>::new(), HashMap::<Uuid, usize>::new());
    for lane in ready {
        *by_stream.entry((lane.tenant_id, lane.stream.as_str())).or_default() += 1;
        *by_tenant.entry(lane.tenant_id).or_default() += 1;
    }
    by_stream.into_values().any(|count| is_full(count, MAX_LANES_PER_STREAM))
        || by_tenant.into_values().any(|count| is_full(count, MAX_LANES_PER_TENANT))
}

fn claim_quota(quota: &LaneQuota) -> ClaimQuota {
    let rows = i32::try_from(quota.recipients).unwrap_or(i32::MAX);
    ClaimQuota { lane: quota.lane.id, rows, from: quota.lane.ready_at }
}

impl ClaimContext {
    fn limit_request(&self, in_flight: &HashMap<i64, LaneInFlight>, quota: &LaneQuota) -> Request {
        let lane = &quota.lane;
        let stream: StreamKey = (lane.tenant_id, lane.stream.clone());
        Request {
            quota: claim_quota(quota),
            is_stream_limited: lane.is_stream_limited(),
            in_flight: in_flight.get(&lane.id).map_or(0, LaneInFlight::message_count),
            open: self.sender.open_connections(lane.id),
            stream_in_flight: stream_message_count(in_flight, &stream),
            stream,
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn until_open_returns_the_wait_for_the_next_lane() {
        let at = |millis| DateTime::UNIX_EPOCH + TimeDelta::milliseconds(millis);
        let mut limited = LimitedLanes::default();
        limited.opens_at.extend([at(500), at(200)]);
        for (now, wait) in [(0, Some(200)), (100, Some(100)), (200, Some(300)), (500, None)] {
            limited.remove_open(at(now));
            assert_eq!(limited.until_open(at(now)), wait.map(Duration::from_millis));
        }
    }
}
