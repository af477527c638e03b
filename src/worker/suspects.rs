//! Recipients that were in hand when a worker died. Most are innocent neighbours of the one that killed it, so they are
//! tried again, a few at a time, each on record before it begins; one that was begun at a second crash is tried with no other
//! suspect beside it. So a third crash tells who it is, and nobody is held for having been near.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::TimeDelta;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use super::mail::{self, Loaded};
use super::{Parts, deliver, give_back};
use crate::db::marks::{self, Mark};
use crate::db::queue::Claimed;
use crate::db::workers::CRASHES_TO_HOLD;
use crate::domain::id::MessageId;

/// Messages that were at one crash and are tried at a time.
const TOGETHER: u32 = 8;
/// Those for whom there is no place come again so much later, as many at a time as there are places.
const PUT_OFF: TimeDelta = TimeDelta::seconds(1);

/// Who waits and whose turn it is.
#[derive(Debug)]
pub(super) struct Suspects {
    /// Places for those in hand, waiting included: they must not take up the hands that other mail needs.
    places: Arc<Semaphore>,
    capacity: usize,
    /// First come, first served, so that nobody starves.
    turns: Semaphore,
}

impl Suspects {
    /// For a worker with so many hands.
    pub(super) fn new(hands: usize) -> Self {
        let capacity = (hands / 4).clamp(1, 64);
        Self { places: Arc::new(Semaphore::new(capacity)), capacity, turns: Semaphore::new(TOGETHER as usize) }
    }
}

/// Starts a task for each message that is suspected, and answers the rest.
pub(super) fn set_aside(parts: &Arc<Parts>, claimed: Vec<Claimed>) -> Vec<Claimed> {
    let (suspected, rest): (Vec<Claimed>, Vec<Claimed>) = claimed.into_iter().partition(|row| row.crashes > 0);
    let mut by_message = BTreeMap::<Uuid, Vec<Claimed>>::new();
    for row in suspected {
        by_message.entry(row.message_id).or_default().push(row);
    }
    let mut too_many = Vec::new();
    for rows in by_message.into_values() {
        match parts.suspects.places.clone().try_acquire_owned() {
            Ok(place) => drop(parts.tasks.spawn(run(parts.clone(), rows, place))),
            Err(_) => too_many.extend(rows),
        }
    }
    if !too_many.is_empty() {
        parts.tasks.spawn(put_off(parts.clone(), too_many));
    }
    rest
}

async fn put_off(parts: Arc<Parts>, rows: Vec<Claimed>) {
    let mut until = parts.clock.now();
    for some in rows.chunks(parts.suspects.capacity) {
        until += PUT_OFF;
        give_back::put_off(&parts.db, &parts.hands, some.to_vec(), until).await;
    }
}

/// Delivers one message when its turn has come, from loading it to its outcome on record.
async fn run(parts: Arc<Parts>, mut claimed: Vec<Claimed>, _place: OwnedSemaphorePermit) {
    let crashes = claimed.iter().map(|row| row.crashes).max().unwrap_or(0);
    let turns = if crashes + 1 >= CRASHES_TO_HOLD { TOGETHER } else { 1 };
    // Never closed: there is always a turn in the end.
    let Ok(_turn) = parts.suspects.turns.acquire_many(turns).await else { return };
    for row in &mut claimed {
        parts.hands.refresh(row);
    }
    match marks::set(&parts.db, &claimed, Mark::Begun).await {
        Ok(true) => {}
        Ok(false) => return give_back::release(&parts.db, &parts.hands, claimed).await,
        Err(error) => {
            tracing::warn!(%error, "could not put on record that a suspected mail begins; giving it back");
            tokio::time::sleep(give_back::PAUSE).await;
            return give_back::release(&parts.db, &parts.hands, claimed).await;
        }
    }
    let keys = claimed.clone();
    if let Some(first) = keys.first() {
        tracing::info!(message = %MessageId(first.message_id), crashes, "trying a mail that was in hand at a crash");
    }
    if let Some(Loaded { mails, orphans }) = mail::load_one(&parts, claimed).await {
        for mail in mails {
            deliver::run(parts.clone(), mail).await;
        }
        give_back::hold(&parts.db, &parts.hands, orphans, give_back::NOT_STORED).await;
    }
    // Until then it is still on record as begun, and would be blamed for what the next one does.
    parts.hands.gone(&keys).await;
}
