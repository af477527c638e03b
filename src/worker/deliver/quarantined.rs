//! Delivers messages that were in flight when a worker crashed, as soon as the quarantine
//! ([`crate::worker::lease::crash_quarantine`]) permits it.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::TimeDelta;
use uuid::Uuid;

use super::message::loaded_message::{self, Loaded};
use super::{DeliverContext, attempt};
use crate::db::queue::attempt_markers::{self, AttemptMarker};
use crate::db::queue::{Claimed, Rescheduled};
use crate::domain::id::MessageId;
use crate::metrics::METRICS;
use crate::worker::lease::crash_quarantine::Slot;
use crate::worker::lease::release::{NOT_STORED, RETRY_PAUSE};

/// Delay of recipients for which the quarantine has no slot. They are rescheduled in chunks, one recipient for each
/// slot of the quarantine, and each chunk is due this long after the previous one.
const NO_SLOT_DELAY: TimeDelta = TimeDelta::seconds(1);

/// Starts a task for each message that was in flight at a crash, and returns the other recipients.
pub(crate) fn start(cx: &Arc<DeliverContext>, claimed: Vec<Claimed>) -> Vec<Claimed> {
    let (quarantined, rest): (Vec<Claimed>, Vec<Claimed>) = claimed.into_iter().partition(|row| row.crashes > 0);
    let mut by_message = BTreeMap::<Uuid, Vec<Claimed>>::new();
    for row in quarantined {
        by_message.entry(row.message_id).or_default().push(row);
    }
    let mut refused = BTreeMap::<Option<i64>, Vec<Claimed>>::new();
    for rows in by_message.into_values() {
        let lane = rows.first().and_then(|row| cx.leases.in_flight.lane(row.lane_id));
        let mx_lane = lane.filter(|lane| lane.is_mx()).map(|lane| lane.id);
        match cx.quarantine.admit(mx_lane) {
            Some(slot) => drop(cx.tasks.spawn(deliver(cx.clone(), rows, slot))),
            None => refused.entry(mx_lane).or_default().extend(rows),
        }
    }
    for (mx_lane, rows) in refused {
        let slots = cx.quarantine.capacity(mx_lane.is_some());
        cx.tasks.spawn(delay(cx.clone(), rows, slots));
    }
    rest
}

async fn delay(cx: Arc<DeliverContext>, rows: Vec<Claimed>, slots: usize) {
    let mut until = cx.clock.now();
    for chunk in rows.chunks(slots) {
        until += NO_SLOT_DELAY;
        let to = Rescheduled { until: Some(until), problem: None };
        cx.leases.reschedule(chunk.to_vec(), to).await;
    }
}

/// Waits until the quarantine permits this message, and delivers it. Returns once its outcome is recorded.
async fn deliver(cx: Arc<DeliverContext>, mut claimed: Vec<Claimed>, slot: Slot) {
    let crashes = claimed.iter().map(|row| row.crashes).max().unwrap_or(0);
    let permit = cx.closing.run_until_cancelled(cx.quarantine.permit(&slot, crashes)).await;
    let Some(Ok(_permit)) = permit else { return cx.leases.release(claimed).await };
    for row in &mut claimed {
        cx.leases.in_flight.adopt_claim(row);
    }
    match attempt_markers::set(&cx.db, &claimed, AttemptMarker::Started).await {
        Ok(true) => {}
        Ok(false) => return cx.leases.release(claimed).await,
        Err(error) => {
            tracing::warn!(
                event = "quarantine_mark_failed",
                %error,
                "failed to record that a quarantined message is being tried; releasing it"
            );
            tokio::time::sleep(RETRY_PAUSE).await;
            return cx.leases.release(claimed).await;
        }
    }
    METRICS.suspects.increment(1);
    let all = claimed.clone();
    if let Some(first) = all.first() {
        tracing::info!(
            event = "quarantined_message_tried",
            message_id = %MessageId(first.message_id),
            crashes,
            "trying a message that was in flight at a crash"
        );
    }
    if let Some(Loaded { messages, orphans }) = loaded_message::load_one(&cx, claimed).await {
        for message in messages {
            attempt::run(cx.clone(), message).await;
        }
        cx.leases.hold(orphans, NOT_STORED).await;
    }
    // The permit is kept until the outcome is recorded: until then the message is marked as being tried, so a crash
    // caused by the next quarantined message would count against this one too.
    cx.leases.in_flight.wait_until_released(&all).await;
}
