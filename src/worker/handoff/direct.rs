//! New mail that this process has accepted, sent without a claim: the transaction that makes it ours leases it to us, and we have
//! it in memory already.
//!
//! Only while nothing waits that could go: what is older goes first, and the division of the hands ([`crate::worker::claim::allocation`]) is
//! made between all that waits. So the first mails after a rest are claimed, and so is everything while hands are short.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use crate::db::drafts::Stored;
use crate::db::intake::Intake;
use crate::db::lanes::{NamedLane, ReadyLane};
use crate::db::queue::{self, Claimed};
use crate::domain::id::RecipientId;
use crate::domain::message::NewRecipient;
use crate::journal::{Settled, Taker};
use crate::worker::Parts;
use crate::worker::claim::allocation::{self, Capacity};
use crate::worker::claim::claimer;
use crate::worker::deliver::loaded_message::{Loaded, LoadedMessage};
use crate::worker::deliver::suppression_check;
use crate::worker::lease::lost_claims;
use crate::worker::lease::release;

/// Between two questions what became of a commit that was not answered.
const PAUSE: Duration = Duration::from_secs(1);

/// Takes new mail for a worker that runs.
#[derive(Debug)]
pub(crate) struct DirectHandoff(pub Arc<Parts>);

impl Taker for DirectHandoff {
    fn offer(&self, group: &mut [Intake], now: DateTime<Utc>) {
        let parts = &self.0;
        if parts.closing.is_cancelled() || !parts.gate.allows() {
            return;
        }
        let Some(worker) = parts.identity.current() else { return };
        let mut lanes = parts.gate.open(group.iter().flat_map(|intake| &intake.lanes));
        for left in parts.lane_stats.left(now) {
            lanes.remove(&left);
        }
        if lanes.is_empty() {
            return;
        }
        let lanes: Vec<Arc<ReadyLane>> = lanes.into_values().collect();
        let mut room = room(parts, &lanes, now);
        let mut taken = Vec::new();
        for intake in group {
            if intake.due_at() <= now && take_room(&mut room, intake.lanes.iter().map(|lane| lane.id)) {
                intake.taker = Some(worker);
                taken.extend(rows(intake));
            }
        }
        // Before the commit: what is leased and not in hand counts as lost (`recover`).
        parts.in_flight.insert_new(&taken, &lanes);
    }

    fn settle(&self, offered: Vec<Settled>) {
        let parts = &self.0;
        let (mut mails, mut lost) = (Vec::new(), Vec::new());
        for Settled { intake, taken, waiting, unsubscribe } in offered {
            if !waiting.is_empty() {
                // What comes after them in their lanes is not to go first.
                let kept =
                    |(recipient, lane): (&NewRecipient, &NamedLane)| waiting.contains(&recipient.id).then_some(lane.id);
                parts.gate.close(intake.message.recipients.iter().zip(&intake.lanes).filter_map(kept));
            }
            let (ours, others): (Vec<Claimed>, Vec<Claimed>) =
                rows(&intake).into_iter().partition(|row| taken.contains(&RecipientId(row.recipient_id)));
            lost.extend(others);
            if !ours.is_empty() {
                mails.push(Mail { message: Stored::of_new(intake.tenant, intake.message, unsubscribe), claimed: ours });
            }
        }
        if !lost.is_empty() {
            // What has been claimed meanwhile was in hand already, so that nobody works on it.
            let claimed = parts.in_flight.release(lost.iter());
            if !claimed.is_empty() {
                let parts = parts.clone();
                parts.tasks.clone().spawn(async move { release::release(&parts.db, &parts.in_flight, claimed).await });
            }
        }
        if !mails.is_empty() {
            parts.tasks.spawn(start(parts.clone(), mails));
        }
    }

    fn doubt(&self, offered: Vec<Intake>) {
        let rows = offered.iter().flat_map(rows).collect();
        self.0.tasks.spawn(find_out(self.0.clone(), rows));
    }
}

/// Sends what was handed over. Whoever was put on the suppression list while it was committed gets nothing.
async fn start(parts: Arc<Parts>, mut mails: Vec<LoadedMessage>) {
    let claimed: Vec<Claimed> = mails.iter().flat_map(|mail| mail.claimed.iter().cloned()).collect();
    if let Err(error) = suppression_check::take_out(&parts, &mut mails).await {
        tracing::warn!(%error, rows = claimed.len(), "could not ask who of new mail is suppressed; giving it back");
        return release::release(&parts.db, &parts.in_flight, claimed).await;
    }
    claimer::start(&parts, Loaded { mails, orphans: Vec::new() }).await;
}

/// Asks what became of a commit that was not answered, until nothing of it can come any more, and gives back what is leased to us:
/// nobody else may send it. In hand it stays meanwhile, so that it does not count as lost.
async fn find_out(parts: Arc<Parts>, mut rows: Vec<Claimed>) {
    let begun = Instant::now();
    while !rows.is_empty() {
        let at = begun.elapsed();
        match queue::are_held(&parts.db, &rows).await {
            Ok(held) => {
                let (ours, unknown) = rows.into_iter().partition(|row| held.contains(&row.recipient_id));
                release::release(&parts.db, &parts.in_flight, ours).await;
                rows = unknown;
                if lost_claims::is_last(at, true, parts.db.limit()) {
                    release::release(&parts.db, &parts.in_flight, parts.in_flight.release(rows.iter())).await;
                    return;
                }
            }
            Err(error) => tracing::debug!(%error, "could not ask what became of new mail"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// How many recipients of each of these lanes may be taken now, as a claim would.
fn room(parts: &Parts, lanes: &[Arc<ReadyLane>], now: DateTime<Utc>) -> HashMap<i64, usize> {
    let in_hand = parts.in_flight.by_lane();
    let known = lanes.iter().map(|lane| lane.id).chain(in_hand.keys().copied());
    let situation = Capacity {
        capacity: parts.settings.concurrency,
        free: parts.in_flight.free(),
        connections: parts.settings.connections,
        recent: &parts.lane_stats.of(known, now),
        in_hand: &in_hand,
    };
    allocation::allocate(lanes, &situation).into_iter().map(|(lane, rows)| (lane.id, rows)).collect()
}

/// Takes a place for each recipient of a message, or none.
fn take_room(room: &mut HashMap<i64, usize>, lanes: impl Iterator<Item = i64> + Clone) -> bool {
    let wanted = |id: i64| lanes.clone().filter(|lane| *lane == id).count();
    if lanes.clone().any(|lane| room.get(&lane).is_none_or(|left| *left < wanted(lane))) {
        return false;
    }
    for lane in lanes {
        if let Some(left) = room.get_mut(&lane) {
            *left -= 1;
        }
    }
    true
}

/// A message's rows as a claim would answer them, but for their number: no claim has that. None where it was not offered.
fn rows(intake: &Intake) -> Vec<Claimed> {
    let Some(worker) = intake.taker else { return Vec::new() };
    let row = |(recipient, lane): (&NewRecipient, &NamedLane)| Claimed {
        message_id: intake.message.id.0,
        recipient_id: recipient.id.0,
        tenant_id: intake.tenant.0,
        lane_id: lane.id,
        attempts: 0,
        crashes: 0,
        first_due_at: intake.due_at(),
        lease: worker,
        claims: 0,
    };
    intake.message.recipients.iter().zip(&intake.lanes).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_a_place_for_each_of_its_recipients_or_none() {
        let mut room = HashMap::from([(1, 3), (2, 1)]);
        let mut take = |lanes: &[i64]| take_room(&mut room, lanes.iter().copied());
        assert!(!take(&[2, 2]) && !take(&[1, 3]));
        assert!(take(&[1, 1, 2]));
        assert_eq!(room, HashMap::from([(1, 1), (2, 0)]));
        let mut take = |lanes: &[i64]| take_room(&mut room, lanes.iter().copied());
        assert!(!take(&[1, 2]) && take(&[1]) && !take(&[1]));
    }
}
