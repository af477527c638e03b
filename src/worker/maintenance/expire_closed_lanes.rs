//! Expires recipients that wait past their deadline in lanes that are paused, unreachable or throttled. Recipients in
//! open lanes are claimed, and expire then.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::Mutex;

use crate::db::DbError;
use crate::db::lanes;
use crate::db::lanes::expire_closed::{ClosedLane, QueuePosition, WaitingRecipient};
use crate::domain::id::LaneId;
use crate::telemetry::KeyedLogLimit;
use crate::worker::deliver::DeliverContext;

const INTERVAL: Duration = Duration::from_secs(30);
/// Maximum number of recipients past their `expires_at` that one query returns.
const BATCH: i64 = 256;
/// Maximum number of recipients checked in one run; a lane with more is continued in the next run.
const CHECKED_PER_RUN: usize = 10_000;
/// Minimum number of recipients checked per lane, for lanes that are checked in a run.
const CHECKED_PER_LANE: usize = 16;
/// How long to wait for the outcomes of expired recipients before more are leased: an outcome that cannot be recorded
/// must not keep other recipients from expiring.
const RECORD_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages whose `expires_at` passes within this time because of a pause are logged.
const WARN_BEFORE: TimeDelta = TimeDelta::hours(1);
/// Shortest interval between two such warnings about one lane.
const WARN_INTERVAL: Duration = Duration::from_mins(15);

/// Expires recipients in closed lanes.
#[derive(Debug)]
pub(crate) struct ClosedLaneExpiry {
    cx: Arc<DeliverContext>,
    progress: Mutex<Progress>,
    warned: KeyedLogLimit,
}

/// The position at which the last run ended.
#[derive(Debug, Default)]
struct Progress {
    /// The last lane that was checked. If there are more lanes than fit in one run, the next run starts after it.
    last_lane: i64,
    /// The last recipient that was checked in each lane with unchecked recipients.
    positions: HashMap<i64, QueuePosition>,
}

pub(crate) async fn run(expiry: Arc<ClosedLaneExpiry>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = expiry.once().await {
            tracing::debug!(
                event = "expiry_failed",
                %error,
                "failed to look for expired recipients in closed lanes; trying again"
            );
        }
    }
}

impl ClosedLaneExpiry {
    pub(crate) fn new(cx: Arc<DeliverContext>) -> Self {
        Self { cx, progress: Mutex::default(), warned: KeyedLogLimit::new(WARN_INTERVAL) }
    }

    pub(crate) async fn once(&self) -> Result<(), DbError> {
        let now = self.cx.clock.now();
        let closed = lanes::expire_closed::closed(&self.cx.db, now).await?;
        if closed.is_empty() {
            return Ok(());
        }
        self.warn_of_pauses(&closed, now).await?;
        let lanes: Vec<i64> = closed.iter().map(|lane| lane.id).collect();
        loop {
            let positions = lanes::expire_closed::expired(&self.cx.db, &lanes, BATCH, now).await?;
            // Recipients that another worker leases in between are returned again: stop when none could be leased.
            if self.expire(&positions).await? == 0 {
                break;
            }
        }
        // Retry windows are suspended while a lane is paused.
        let running: Vec<i64> = closed.iter().filter(|lane| !lane.is_paused).map(|lane| lane.id).collect();
        let expired = self.check_windows(&running).await?;
        self.expire(&expired).await?;
        Ok(())
    }

    /// Logs the paused lanes in which messages are about to pass their `expires_at`.
    async fn warn_of_pauses(&self, closed: &[ClosedLane], now: DateTime<Utc>) -> Result<(), DbError> {
        let paused: Vec<i64> = closed.iter().filter(|lane| lane.is_paused).map(|lane| lane.id).collect();
        if paused.is_empty() {
            return Ok(());
        }
        for expiring in lanes::expire_closed::expiring(&self.cx.db, &paused, now + WARN_BEFORE).await? {
            let lane = LaneId(expiring.lane);
            if self.warned.allows(&lane.to_string(), now) {
                tracing::warn!(
                    event = "pause_expires_messages",
                    %lane,
                    stream = expiring.stream,
                    route = expiring.route,
                    domain = expiring.domain,
                    paused_at = %expiring.paused_at,
                    recipients = expiring.count,
                    first_expires_at = %expiring.first,
                    "messages expire soon because their lane, stream or tenant is paused; resume it to send them"
                );
            }
        }
        Ok(())
    }

    /// Returns recipients in these lanes whose retry window has closed, continuing where the last run ended.
    async fn check_windows(&self, lanes: &[i64]) -> Result<Vec<QueuePosition>, DbError> {
        let from = self.progress(|progress| progress.next(lanes, CHECKED_PER_RUN / CHECKED_PER_LANE));
        let limit = (CHECKED_PER_RUN / from.len().max(1)).max(CHECKED_PER_LANE);
        let policies = &self.cx.retry_policies;
        let window = policies.default_policy().window;
        let now = self.cx.clock.now();
        policies.refresh(&self.cx.db, now).await;
        let pauses = policies.pauses();
        let rows = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = lanes::expire_closed::page(&self.cx.db, &from, rows, window, &pauses, now).await?;
        self.progress(|progress| progress.note(&from, &rows, limit));
        Ok(rows.into_iter().filter(|row| row.is_window_over).map(|row| row.position).collect())
    }

    /// Leases these recipients, as a claim does, and completes them: a few at a time, so that there is always capacity
    /// for messages that can be sent, and the quarter for urgent ones is never used. Returns the number of recipients.
    async fn expire(&self, mut positions: &[QueuePosition]) -> Result<usize, DbError> {
        let leases = &self.cx.leases;
        let (capacity, mut count) = (leases.in_flight.capacity(), 0);
        while !positions.is_empty() {
            let free = leases.in_flight.wait_for_capacity(capacity / 4).await.min((capacity / 8).max(1));
            let Some(worker) = leases.worker() else { break };
            let (batch, rest) = positions.split_at(free.min(positions.len()));
            positions = rest;
            let leased = lanes::expire_closed::lease(&self.cx.db, worker, batch)
                .await
                .inspect_err(|error| leases.note_failed_claim(error))?;
            let new = leases.in_flight.insert(leased, &[]);
            if new.is_empty() {
                continue;
            }
            count += new.len();
            self.cx.expire(new.clone());
            if tokio::time::timeout(RECORD_TIMEOUT, leases.in_flight.wait_until_released(&new)).await.is_err() {
                tracing::debug!(
                    event = "expiry_not_recorded",
                    recipients = new.len(),
                    "expired recipients are not recorded yet; continuing with others"
                );
            }
        }
        Ok(count)
    }

    fn progress<T>(&self, access: impl FnOnce(&mut Progress) -> T) -> T {
        access(&mut self.progress.lock())
    }
}

impl Progress {
    /// Returns the next lanes to check, at most `limit` of `closed`, and the position after which to continue in each.
    /// `closed` must be ordered by id.
    fn next(&mut self, closed: &[i64], limit: usize) -> Vec<(i64, Option<QueuePosition>)> {
        self.positions.retain(|lane, _| closed.binary_search(lane).is_ok());
        let (before, behind) = closed.split_at(closed.partition_point(|lane| *lane <= self.last_lane));
        let next: Vec<_> =
            behind.iter().chain(before).take(limit).map(|lane| (*lane, self.positions.get(lane).copied())).collect();
        self.last_lane = next.last().map_or(self.last_lane, |(lane, _)| *lane);
        next
    }

    /// Notes which recipients of these lanes were checked, at most `limit` of each.
    fn note(&mut self, lanes: &[(i64, Option<QueuePosition>)], rows: &[WaitingRecipient], limit: usize) {
        let mut checked = HashMap::<i64, (usize, QueuePosition)>::new();
        for row in rows {
            let (count, last) = checked.entry(row.lane).or_insert((0, row.position));
            *count += 1;
            *last = row.position;
        }
        for (lane, _) in lanes {
            match checked.get(lane) {
                Some((count, last)) if *count >= limit => self.positions.insert(*lane, *last),
                // A lane that was checked to its end starts again.
                _ => self.positions.remove(lane),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use uuid::Uuid;

    use super::*;

    fn row(lane: i64, n: u128) -> WaitingRecipient {
        let position = QueuePosition {
            due_at: DateTime::UNIX_EPOCH,
            message_id: Uuid::from_u128(n),
            recipient_id: Uuid::from_u128(n),
        };
        WaitingRecipient { lane, position, is_window_over: false }
    }

    fn ids(lanes: &[(i64, Option<QueuePosition>)]) -> Vec<i64> {
        lanes.iter().map(|(lane, _)| *lane).collect()
    }

    #[test]
    fn every_closed_lane_is_checked_in_turn() {
        let (mut progress, closed) = (Progress::default(), [2, 3, 5, 7, 11]);
        let mut next = || ids(&progress.next(&closed, 2));
        assert_eq!([next(), next(), next(), next()], [[2, 3], [5, 7], [11, 2], [3, 5]]);
        assert_eq!(ids(&progress.next(&closed, 9)), [7, 11, 2, 3, 5]);
        assert!(progress.next(&[], 9).is_empty());
    }

    #[test]
    fn lane_with_more_recipients_continues_and_others_start_again() {
        let (mut progress, closed) = (Progress::default(), [1, 2, 3]);
        let next = progress.next(&closed, 2);
        progress.note(&next, &[row(1, 10), row(1, 11), row(2, 20)], 2);
        // Lanes that are not checked in this run keep their positions.
        let next = progress.next(&closed, 1);
        progress.note(&next, &[row(3, 30), row(3, 31)], 2);
        assert_eq!(
            progress.next(&closed, 3),
            [(1, Some(row(1, 11).position)), (2, None), (3, Some(row(3, 31).position))]
        );
        progress.next(&[2, 3], 2);
        assert_eq!(progress.next(&closed, 3)[0], (1, None), "the lane was open in between");
    }
}
