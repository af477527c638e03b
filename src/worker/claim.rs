//! Takes what is due, as much as there is room for, and starts a task for each mail.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::mail::{self, Loaded};
use super::{Parts, deliver};
use crate::db::DbError;
use crate::db::lanes::{self, ReadyLane};
use crate::db::queue::{self, Claimed, Room};

/// What a claim brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Took {
    /// Some rows: ask again at once.
    Rows,
    /// Nothing is due for which there is room.
    Nothing,
    /// Every hand is full.
    NoRoom,
}

/// Lanes looked at in one claim.
const LANES: i64 = 512;
/// Rows of one lane that a claim takes at least, if there is room: a round trip for one mail each is too dear.
const LEAST: usize = 8;
/// A lane that is this urgent may use every hand; one with a higher number leaves a quarter of them for it.
const URGENT: i16 = 10;
/// Between two tries to give back what could not be loaded.
const RELEASE_PAUSE: Duration = Duration::from_secs(1);
/// How often the bound of a lane in use is raised, past the rows that have left it.
const SETTLE_EVERY: Duration = Duration::from_secs(5);
/// After a claim that failed, its rows may turn up leased to us for as long as its statement can still be running.
const SUSPECT_FOR: Duration = Duration::from_mins(1);

/// What the claimer remembers from one claim to the next.
#[derive(Debug)]
pub(super) struct Memory {
    settled: Instant,
    suspect_until: Option<Instant>,
}

impl Default for Memory {
    fn default() -> Self {
        Self { settled: Instant::now(), suspect_until: None }
    }
}

/// Claims once.
pub(super) async fn some(parts: &Arc<Parts>, memory: &mut Memory) -> Result<Took, DbError> {
    let Some(worker) = parts.identity.current() else {
        // Not to be claimed under: the next heartbeat confirms this id or brings another.
        return Ok(Took::Nothing);
    };
    release_lost(parts, memory, worker).await?;
    if parts.hands.free() == 0 {
        return Ok(Took::NoRoom);
    }
    let now = parts.clock.now();
    let ready = lanes::ready(&parts.db, now, LANES).await?;
    let rooms = rooms(parts, ready);
    if rooms.is_empty() {
        return Ok(Took::Nothing);
    }
    let claimed = match queue::claim(&parts.db, worker, &rooms, now).await {
        Ok(claimed) => claimed,
        Err(error) => {
            // It may have been committed all the same.
            memory.suspect_until = Some(Instant::now() + SUSPECT_FOR);
            return Err(error);
        }
    };
    parts.hands.take(&claimed);
    let took = if claimed.is_empty() { Took::Nothing } else { Took::Rows };
    load(parts, &claimed).await;
    settle(parts, memory, &rooms, &claimed).await;
    Ok(took)
}

/// Gives back rows of a claim whose answer was lost.
async fn release_lost(parts: &Parts, memory: &mut Memory, worker: uuid::Uuid) -> Result<(), DbError> {
    let Some(until) = memory.suspect_until else { return Ok(()) };
    let lost = queue::release_unknown(&parts.db, worker, &parts.hands.keys()).await?;
    if lost > 0 {
        tracing::warn!(lost, "gave back recipients whose claim had not been answered");
    }
    if Instant::now() > until {
        memory.suspect_until = None;
    }
    Ok(())
}

/// Shares the free hands among the lanes: the most urgent first, then those that have least in hand already, so that
/// slow destinations do not take what the others leave.
fn rooms(parts: &Parts, ready: Vec<ReadyLane>) -> Vec<Room> {
    let capacity = parts.settings.concurrency;
    let mut free = parts.hands.free();
    let share = (free / ready.len().max(1)).max(LEAST);
    let mut lanes: Vec<(usize, ReadyLane)> =
        ready.into_iter().map(|lane| (parts.hands.of_lane(lane.id), lane)).collect();
    lanes.sort_by_key(|(in_hand, lane)| (lane.priority, *in_hand));
    let mut rooms = Vec::with_capacity(lanes.len());
    for (in_hand, lane) in lanes {
        let is_mx = lane.route == "mx";
        let limit = if is_mx { parts.settings.lane_concurrency } else { capacity };
        // The last quarter is for what is urgent; the last eighth for destinations that have nothing in hand yet.
        let urgent = if lane.priority > URGENT { capacity / 4 } else { 0 };
        let newcomers = if is_mx && in_hand > 0 { capacity / 8 } else { 0 };
        let rows = limit.saturating_sub(in_hand).min(free.saturating_sub(urgent.max(newcomers))).min(share);
        if rows > 0 {
            free -= rows;
            rooms.push(Room { lane: lane.id, rows: i32::try_from(rows).unwrap_or(i32::MAX), from: lane.ready_at });
        }
    }
    rooms
}

/// Lanes that counted as ready and had nothing are asked again only when they do. From time to time those in use are
/// brought up to date too.
async fn settle(parts: &Parts, memory: &mut Memory, rooms: &[Room], claimed: &[Claimed]) {
    let in_use: HashSet<i64> = claimed.iter().map(|row| row.lane_id).collect();
    let is_time = memory.settled.elapsed() >= SETTLE_EVERY;
    if is_time {
        memory.settled = Instant::now();
    }
    let lanes: Vec<i64> = rooms.iter().map(|room| room.lane).filter(|lane| is_time || !in_use.contains(lane)).collect();
    if lanes.is_empty() {
        return;
    }
    if let Err(error) = lanes::settle(&parts.db, &lanes).await {
        tracing::debug!(%error, "could not settle lanes; they are asked again");
    }
}

/// Loads what was claimed and starts a task for each mail. What cannot be loaded is given back.
async fn load(parts: &Arc<Parts>, claimed: &[Claimed]) {
    if claimed.is_empty() {
        return;
    }
    match mail::load(&parts.db, claimed).await {
        Ok(Loaded { mails, orphans }) => {
            for mail in mails {
                parts.tasks.spawn(deliver::run(parts.clone(), mail));
            }
            if !orphans.is_empty() {
                parts.tasks.spawn(hold(parts.clone(), orphans, "held: its message is not stored"));
            }
        }
        Err(error) => {
            tracing::warn!(%error, rows = claimed.len(), "could not load what was claimed; giving it back");
            parts.tasks.spawn(give_back(parts.clone(), claimed.to_vec()));
        }
    }
}

/// Gives rows back until it works: while we live, nobody else may take them.
pub(super) async fn give_back(parts: Arc<Parts>, claimed: Vec<Claimed>) {
    while let Err(error) = queue::release(&parts.db, &claimed).await {
        tracing::debug!(%error, "could not give back what was claimed");
        tokio::time::sleep(RELEASE_PAUSE).await;
    }
    parts.hands.let_go(claimed.iter());
    parts.wake.notify_one();
}

async fn hold(parts: Arc<Parts>, claimed: Vec<Claimed>, reason: &'static str) {
    tracing::error!(rows = claimed.len(), reason, "recipients are held for an operator");
    while let Err(error) = queue::hold(&parts.db, &claimed, reason).await {
        tracing::debug!(%error, "could not hold what was claimed");
        tokio::time::sleep(RELEASE_PAUSE).await;
    }
    parts.hands.let_go(claimed.iter());
}
