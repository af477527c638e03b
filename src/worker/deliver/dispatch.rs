//! Loads the messages of claimed recipients and starts a task for each message.

use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::Instrument as _;
use uuid::Uuid;

use super::message::loaded_message::{self, Loaded};
use super::{DeliverContext, attempt};
use crate::db::queue::Claimed;
use crate::domain::id::MessageId;
use crate::worker::lease::release::{NOT_STORED, RETRY_PAUSE};

/// Loads the messages of claimed recipients and starts a task for each message. Recipients whose message cannot be
/// loaded now are released, and those whose message can never be loaded are held. Returns `false` if the database is
/// unreachable.
pub(crate) async fn load_and_start(cx: &Arc<DeliverContext>, claimed: Vec<Claimed>) -> bool {
    if claimed.is_empty() {
        return true;
    }
    match loaded_message::load(cx, &claimed).await {
        Ok(loaded) => {
            start(cx, loaded).await;
            true
        }
        Err(error) if error.is_temporary() => {
            tracing::warn!(
                event = "load_failed",
                %error,
                recipients = claimed.len(),
                "failed to load claimed messages; releasing them"
            );
            let leases = cx.leases.clone();
            cx.tasks.spawn(async move {
                tokio::time::sleep(RETRY_PAUSE).await;
                leases.release(claimed).await;
            });
            false
        }
        Err(_) => {
            load_one_by_one(cx, claimed).await;
            true
        }
    }
}

/// Loads each message alone, so that a message that cannot be read does not delay the others.
async fn load_one_by_one(cx: &Arc<DeliverContext>, claimed: Vec<Claimed>) {
    let mut by_message = BTreeMap::<Uuid, Vec<Claimed>>::new();
    for row in claimed {
        by_message.entry(row.message_id).or_default().push(row);
    }
    for claimed in by_message.into_values() {
        if let Some(loaded) = loaded_message::load_one(cx, claimed).await {
            start(cx, loaded).await;
        }
    }
}

/// Starts a task for each message.
pub(crate) async fn start(cx: &Arc<DeliverContext>, loaded: Loaded) {
    let Loaded { messages, orphans } = move_to_dedicated_lanes(cx, loaded).await;
    for message in messages {
        // Disabled, and then without a cost, unless lines of this level are logged.
        let span = tracing::debug_span!("attempt", message_id = %MessageId(message.stored.row.id));
        // Boxed, because the future is large and would be moved several times.
        cx.tasks.spawn(Box::pin(attempt::run(cx.clone(), message).instrument(span)));
    }
    if !orphans.is_empty() {
        let leases = cx.leases.clone();
        cx.tasks.spawn(async move { leases.hold(orphans, NOT_STORED).await });
    }
}

/// Moves recipients whose domain has a dedicated lane to that lane, where they wait to be claimed again.
async fn move_to_dedicated_lanes(cx: &DeliverContext, mut loaded: Loaded) -> Loaded {
    let in_flight = &cx.leases.in_flight;
    let is_shared = |row: &Claimed| in_flight.lane(row.lane_id).is_some_and(|lane| lane.is_shared());
    if !loaded.messages.iter().flat_map(|message| &message.claimed).any(is_shared) {
        return loaded;
    }
    let dedicated_lanes = match cx.dedicated_lanes.current().await {
        Ok(dedicated_lanes) if !dedicated_lanes.is_empty() => dedicated_lanes,
        Ok(_) => return loaded,
        Err(error) => {
            tracing::debug!(event = "lane_splits_unknown", %error, "failed to read which domains have dedicated lanes");
            return loaded;
        }
    };
    let mut moves = Vec::new();
    for message in &mut loaded.messages {
        let dedicated_lane = |row: &Claimed| {
            let lane = in_flight.lane(row.lane_id).filter(|lane| lane.is_shared())?;
            let domain = message.stored.address(row.recipient_id).ok()?.domain().to_owned();
            dedicated_lanes.get(&(lane.tenant_id, lane.stream.clone(), lane.route.clone(), domain)).copied()
        };
        let (moved, remaining): (Vec<_>, Vec<_>) = std::mem::take(&mut message.claimed)
            .into_iter()
            .map(|row| (dedicated_lane(&row), row))
            .partition(|(own, _)| own.is_some());
        message.claimed = remaining.into_iter().map(|(_, row)| row).collect();
        moves.extend(moved.into_iter().filter_map(|(own, row)| Some((row, own?))));
    }
    loaded.messages.retain(|message| !message.claimed.is_empty());
    if !moves.is_empty() {
        cx.leases.move_to_lanes(moves).await;
    }
    loaded
}
