//! Takes what is due, as much as there is room for, and starts a task for each mail.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::mail::{self, Loaded};
use super::{Parts, deliver, give_back};
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
/// How often the bound of a lane in use is raised, past the rows that have left it.
const SETTLE_EVERY: Duration = Duration::from_secs(5);
/// What the claimer remembers from one claim to the next.
#[derive(Debug)]
pub(super) struct Memory {
    settled: Instant,
}

impl Default for Memory {
    fn default() -> Self {
        Self { settled: Instant::now() }
    }
}

/// Claims once.
pub(super) async fn some(parts: &Arc<Parts>, memory: &mut Memory) -> Result<Took, DbError> {
    let Some(worker) = parts.identity.current() else {
        // Not to be claimed under: the next heartbeat confirms this id or brings another.
        return Ok(Took::Nothing);
    };
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
            parts.suspect.notify_one();
            return Err(error);
        }
    };
    let is_nothing = claimed.is_empty();
    settle(parts, memory, &rooms, &claimed).await;
    let loaded = load(parts, parts.hands.take(claimed)).await;
    Ok(if is_nothing || !loaded { Took::Nothing } else { Took::Rows })
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

/// Loads what was claimed and starts a task for each mail. What cannot be loaded is given back, or held where it never
/// can be. Answers whether the database did its part.
async fn load(parts: &Arc<Parts>, claimed: Vec<Claimed>) -> bool {
    if claimed.is_empty() {
        return true;
    }
    match mail::load(&parts.db, &claimed).await {
        Ok(loaded) => {
            start(parts, loaded);
            true
        }
        Err(error) if error.is_passing() => {
            tracing::warn!(%error, rows = claimed.len(), "could not load what was claimed; giving it back");
            let parts = parts.clone();
            parts.tasks.clone().spawn(async move {
                tokio::time::sleep(give_back::PAUSE).await;
                give_back::release(&parts.db, &parts.hands, claimed).await;
            });
            false
        }
        Err(_) => {
            load_one_by_one(parts, claimed).await;
            true
        }
    }
}

/// One message that cannot be read must not keep its neighbours.
async fn load_one_by_one(parts: &Arc<Parts>, claimed: Vec<Claimed>) {
    let mut by_message = BTreeMap::<Uuid, Vec<Claimed>>::new();
    for row in claimed {
        by_message.entry(row.message_id).or_default().push(row);
    }
    for claimed in by_message.into_values() {
        match mail::load(&parts.db, &claimed).await {
            Ok(loaded) => start(parts, loaded),
            Err(error) if error.is_passing() => give_back::release(&parts.db, &parts.hands, claimed).await,
            Err(error) => {
                let reason = format!("held: what is stored of the message cannot be read: {error}");
                give_back::hold(&parts.db, &parts.hands, claimed, &reason).await;
            }
        }
    }
}

fn start(parts: &Arc<Parts>, Loaded { mails, orphans }: Loaded) {
    for mail in mails {
        parts.tasks.spawn(deliver::run(parts.clone(), mail));
    }
    if !orphans.is_empty() {
        let parts = parts.clone();
        parts.tasks.clone().spawn(async move {
            give_back::hold(&parts.db, &parts.hands, orphans, "held: its message is not stored").await;
        });
    }
}
