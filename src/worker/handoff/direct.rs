//! Sends new messages of this process without a claim: the transaction that commits them also leases them to this
//! worker, and they are in memory already.
//!
//! This happens only while no older recipient is due, because older recipients are sent first, and only within the
//! capacity of the lanes ([`crate::worker::claim::allocation`]). The priority of the stream must be known from a recent
//! claim ([`HandoffGate`]), so the first messages after a long idle time are claimed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

use super::gate::HandoffGate;
use crate::db::DbError;
use crate::db::lanes::{NamedLane, ReadyLane};
use crate::db::messages::insert::MessageInsert;
use crate::db::messages::stored::StoredMessage;
use crate::db::queue::{self, Claimed};
use crate::domain::id::RecipientId;
use crate::domain::message::NewRecipient;
use crate::group_commit::{Confirmed, DirectConsumer};
use crate::metrics::METRICS;
use crate::worker::claim::turns::Turns;
use crate::worker::claim::{ClaimContext, allocation};
use crate::worker::deliver::message::loaded_message::{Loaded, LoadedMessage};
use crate::worker::deliver::message::suppression_recheck;
use crate::worker::deliver::{DeliverContext, dispatch};
use crate::worker::lease::lost_claims;

/// Age up to which a message is sent without another look at the suppression list, which the transaction that stored it has read.
/// Commits rarely take longer.
const MAX_UNCHECKED_AGE: TimeDelta = TimeDelta::milliseconds(250);
/// Pause between two queries for the result of a commit without a response.
const QUERY_PAUSE: Duration = Duration::from_secs(1);

/// Receives new messages for a running worker.
#[derive(Debug)]
pub(crate) struct DirectHandoff {
    pub claim: Arc<ClaimContext>,
    pub deliver: Arc<DeliverContext>,
    pub gate: Arc<HandoffGate>,
}

impl DirectConsumer for DirectHandoff {
    fn reserve(&self, group: &mut [MessageInsert], now: DateTime<Utc>) {
        let leases = &self.claim.leases;
        if self.deliver.closing.is_cancelled() || !self.gate.allows() {
            return;
        }
        let Some(worker) = leases.worker() else { return };
        let mut lanes = self.gate.open_lanes(group.iter().flat_map(|insert| &insert.lanes));
        for avoided in self.claim.lane_stats.avoided(now) {
            lanes.remove(&avoided);
        }
        if lanes.is_empty() {
            return;
        }
        let lanes: Vec<Arc<ReadyLane>> = lanes.into_values().collect();
        let mut quotas = quotas(&self.claim, &lanes, now);
        let mut reserved = Vec::new();
        for insert in group {
            let is_due = !insert.is_canceled && insert.due_at() <= now;
            if is_due && reserve(&mut quotas, insert.lanes.iter().map(|lane| lane.id)) {
                insert.direct_consumer = Some(worker);
                reserved.extend(claims(insert));
            }
        }
        // Before the commit, because recipients that are leased and not in flight count as lost.
        leases.in_flight.insert_new(&reserved, &lanes);
    }

    fn confirm(&self, reserved: Vec<Confirmed>) {
        let leases = &self.claim.leases;
        let (mut messages, mut refused) = (Vec::new(), Vec::new());
        for Confirmed { insert, leased, waiting, unsubscribe } in reserved {
            // Later messages must not overtake those that wait in the same lanes.
            for (recipient, lane) in insert.message.recipients.iter().zip(&insert.lanes) {
                if waiting.contains(&recipient.id) {
                    self.gate.close_lane(lane.id);
                }
            }
            let (claimed, others): (Vec<Claimed>, Vec<Claimed>) =
                claims(&insert).into_iter().partition(|row| leased.contains(&RecipientId(row.recipient_id)));
            refused.extend(others);
            METRICS.handed_over.increment(claimed.len() as u64);
            if !claimed.is_empty() {
                let mut stored = StoredMessage::from_new(insert.tenant, insert.message, unsubscribe);
                let size = stored.row.size;
                let memory = stored.has_content().then(|| self.deliver.try_reserve_memory(size, &claimed)).flatten();
                if memory.is_none() {
                    stored.unload();
                }
                messages.push(LoadedMessage { stored, claimed, memory });
            }
        }
        if !refused.is_empty() {
            // A recipient that was claimed during the commit has no task: the claim started none, because the
            // recipient was in flight already. It goes back to the queue.
            let claimed = leases.in_flight.release(refused.iter());
            if !claimed.is_empty() {
                let leases = leases.clone();
                self.deliver.tasks.spawn(async move { leases.release(claimed).await });
            }
        }
        if !messages.is_empty() {
            self.deliver.tasks.spawn(start(self.deliver.clone(), messages));
        }
    }

    fn unknown(&self, reserved: Vec<MessageInsert>) {
        let rows = reserved.iter().flat_map(claims).collect();
        self.deliver.tasks.spawn(resolve(self.deliver.clone(), rows));
    }
}

/// Sends messages that were handed off, except to addresses that were suppressed during a commit that took long.
async fn start(cx: Arc<DeliverContext>, mut messages: Vec<LoadedMessage>) {
    let earliest = cx.clock.now() - MAX_UNCHECKED_AGE;
    if messages.iter().any(|message| message.stored.row.created_at < earliest) {
        let claimed: Vec<Claimed> = messages.iter().flat_map(|message| message.claimed.iter().cloned()).collect();
        let checked = suppression_recheck::end_suppressed(&cx, &mut messages).await;
        if let Err(error) = checked {
            return release_unchecked(&cx, claimed, &error).await;
        }
    }
    dispatch::start(&cx, Loaded { messages, orphans: Vec::new() }).await;
}

/// Releases recipients whose addresses could not be looked up in the suppression list.
async fn release_unchecked(cx: &DeliverContext, claimed: Vec<Claimed>, error: &DbError) {
    tracing::warn!(
        event = "suppression_check_failed",
        %error,
        recipients = claimed.len(),
        "failed to check the suppression list for new messages; releasing them"
    );
    cx.leases.release(claimed).await;
}

/// Resolves a commit whose response was lost: releases the recipients that the commit leased to this worker, because
/// otherwise no other worker could claim them. Queries the database until the transaction can no longer be committed.
/// The recipients stay in flight meanwhile, so that they do not count as lost.
async fn resolve(cx: Arc<DeliverContext>, mut rows: Vec<Claimed>) {
    let started = Instant::now();
    while !rows.is_empty() {
        let at = started.elapsed();
        match queue::still_leased(&cx.db, &rows).await {
            Ok(leased) => {
                let (own, unknown) = rows.into_iter().partition(|row| leased.contains(&row.recipient_id));
                cx.leases.release(own).await;
                rows = unknown;
                if lost_claims::is_last_search(at, true, cx.db.limit()) {
                    cx.leases.release(cx.leases.in_flight.release(rows.iter())).await;
                    return;
                }
            }
            Err(error) => tracing::debug!(
                event = "handoff_unresolved",
                %error,
                "failed to query whether new messages were committed; trying again"
            ),
        }
        tokio::time::sleep(QUERY_PAUSE).await;
    }
}

/// Returns how many more recipients of each of these lanes may be in flight now.
fn quotas(cx: &ClaimContext, lanes: &[Arc<ReadyLane>], now: DateTime<Utc>) -> HashMap<i64, usize> {
    let in_flight = cx.leases.in_flight.usage();
    let recent = cx.recent(lanes, &in_flight, now);
    // There are turns only while recipients wait, and then nothing is handed off.
    let turns = Turns::default();
    let capacity = cx.capacity(cx.leases.in_flight.free(), &in_flight, &recent, &turns);
    allocation::allocate(lanes, &capacity).quotas.into_iter().map(|quota| (quota.lane.id, quota.recipients)).collect()
}

/// Reserves capacity for all recipients of a message, or for none.
fn reserve(quotas: &mut HashMap<i64, usize>, lanes: impl Iterator<Item = i64> + Clone) -> bool {
    let wanted = |id: i64| lanes.clone().filter(|lane| *lane == id).count();
    if lanes.clone().any(|lane| quotas.get(&lane).is_none_or(|left| *left < wanted(lane))) {
        return false;
    }
    for lane in lanes {
        if let Some(left) = quotas.get_mut(&lane) {
            *left -= 1;
        }
    }
    true
}

/// Returns the recipients of a reserved message as a claim would, with the claim number zero, which no claim has.
/// Returns nothing for a message that was not reserved.
fn claims(insert: &MessageInsert) -> Vec<Claimed> {
    let Some(worker) = insert.direct_consumer else { return Vec::new() };
    let row = |(recipient, lane): (&NewRecipient, &NamedLane)| Claimed {
        message_id: insert.message.id.0,
        recipient_id: recipient.id.0,
        tenant_id: insert.tenant.0,
        lane_id: lane.id,
        attempts: 0,
        crashes: 0,
        first_due_at: insert.due_at(),
        lease: worker,
        claims: 0,
    };
    insert.message.recipients.iter().zip(&insert.lanes).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_is_reserved_for_all_recipients_or_none() {
        let mut quotas = HashMap::from([(1, 3), (2, 1)]);
        let mut reserve_for = |lanes: &[i64]| reserve(&mut quotas, lanes.iter().copied());
        assert!(!reserve_for(&[2, 2]) && !reserve_for(&[1, 3]));
        assert!(reserve_for(&[1, 1, 2]));
        assert_eq!(quotas, HashMap::from([(1, 1), (2, 0)]));
        let mut reserve_for = |lanes: &[i64]| reserve(&mut quotas, lanes.iter().copied());
        assert!(!reserve_for(&[1, 2]) && reserve_for(&[1]) && !reserve_for(&[1]));
    }
}
