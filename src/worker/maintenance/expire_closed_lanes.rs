//! Ends what waits behind a pause, a block or a throttle beyond its time. Only lanes that are closed are looked at: what
//! waits in an open one is claimed, and expires there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::db::DbError;
use crate::db::overdue::{self, Closed, Place, Waiting};
use crate::domain::id::LaneId;
use crate::worker::Parts;
use crate::worker::deliver::attempt;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(30);
/// Rows asked for together.
const BATCH: i64 = 256;
/// Rows looked at in one go; of a lane with more, the next look goes on where this one ended.
const PAGE: usize = 10_000;
/// Of one lane at least.
const LEAST: usize = 16;
/// How long what was taken may be in hand before more is taken all the same: one outcome that cannot be recorded must not
/// keep the others from expiring.
const PATIENCE: Duration = Duration::from_secs(10);

/// Messages whose `expires_at` passes within this time, because of a pause, are logged, at most once in `WARN_EVERY` for a lane.
const WARN_BEFORE: TimeDelta = TimeDelta::hours(1);
const WARN_EVERY: TimeDelta = TimeDelta::minutes(15);

/// How far the last look came.
#[derive(Debug, Default)]
pub(crate) struct Places(Mutex<Looked>);

#[derive(Debug, Default)]
struct Looked {
    /// The lane looked at last. Where there are more lanes than one look has time for, the next goes on behind it.
    last: i64,
    /// Where the look at each lane ended that was not seen to its end.
    ends: HashMap<i64, Place>,
}

pub(crate) async fn run(parts: Arc<Parts>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = once(&parts).await {
            tracing::debug!(%error, "could not look for recipients whose time has run out");
        }
    }
}

pub(crate) async fn once(parts: &Arc<Parts>) -> Result<(), DbError> {
    let now = parts.clock.now();
    let closed = overdue::closed(&parts.db, now).await?;
    if closed.is_empty() {
        return Ok(());
    }
    warn_of_pauses(parts, &closed, now).await?;
    let lanes: Vec<i64> = closed.iter().map(|lane| lane.id).collect();
    loop {
        let places = overdue::expired(&parts.db, &lanes, BATCH, now).await?;
        // Those that another worker has taken meanwhile are seen again: enough is when none could be had.
        if end(parts, &places).await? == 0 {
            break;
        }
    }
    // Where a lane is paused its retry windows stand still.
    let running: Vec<i64> = closed.iter().filter(|lane| !lane.is_paused).map(|lane| lane.id).collect();
    let over = page(parts, &running).await?;
    end(parts, &over).await?;
    Ok(())
}

/// Logs which paused lanes are about to lose messages to their `expires_at`.
async fn warn_of_pauses(parts: &Parts, closed: &[Closed], now: DateTime<Utc>) -> Result<(), DbError> {
    let paused: Vec<i64> = closed.iter().filter(|lane| lane.is_paused).map(|lane| lane.id).collect();
    if paused.is_empty() {
        return Ok(());
    }
    for expiring in overdue::expiring(&parts.db, &paused, now + WARN_BEFORE).await? {
        let lane = LaneId(expiring.lane);
        if parts.alarms.is_new(&format!("expiring {lane}"), now, WARN_EVERY) {
            tracing::warn!(
                event = "pause_expires_messages",
                %lane,
                stream = expiring.stream,
                route = expiring.route,
                domain = expiring.domain,
                paused_at = %expiring.paused_at,
                recipients = expiring.count,
                first_expires_at = %expiring.first,
                "messages expire soon because their lane or stream is paused; resume it to send them"
            );
        }
    }
    Ok(())
}

/// Looks on through the lanes for rows whose retry window has closed.
async fn page(parts: &Parts, lanes: &[i64]) -> Result<Vec<Place>, DbError> {
    let from = parts.places.looked(|looked| looked.next(lanes, PAGE / LEAST));
    let limit = (PAGE / from.len().max(1)).max(LEAST);
    let window = parts.settings.policy.window;
    let now = parts.clock.now();
    parts.policies.refresh(&parts.db, now).await;
    let pauses = parts.policies.pauses();
    let rows = overdue::page(&parts.db, &from, i64::try_from(limit).unwrap_or(i64::MAX), window, &pauses, now).await?;
    parts.places.looked(|looked| looked.note(&from, &rows, limit));
    Ok(rows.into_iter().filter(|row| row.is_over).map(|row| row.place).collect())
}

/// Takes them in hand, as a claim does, and completes them: a few at a time, so that mail that can go always finds a hand
/// free, and the urgent quarter is never touched. Answers how many that were.
async fn end(parts: &Arc<Parts>, mut places: &[Place]) -> Result<usize, DbError> {
    let (capacity, mut count) = (parts.settings.concurrency, 0);
    while !places.is_empty() {
        let room = parts.in_flight.room_beside(capacity / 4).await.min((capacity / 8).max(1));
        let Some(worker) = parts.identity.current() else { break };
        let (some, rest) = places.split_at(room.min(places.len()));
        places = rest;
        let leased = overdue::lease(&parts.db, worker, some).await.inspect_err(|error| parts.suspect(error))?;
        let taken = parts.in_flight.insert(leased, &[]);
        if taken.is_empty() {
            continue;
        }
        count += taken.len();
        attempt::expire(parts, taken.clone());
        if tokio::time::timeout(PATIENCE, parts.in_flight.gone(&taken)).await.is_err() {
            tracing::debug!("recipients whose time has run out could not be completed yet");
        }
    }
    Ok(count)
}

impl Places {
    fn looked<T>(&self, look: impl FnOnce(&mut Looked) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Looked {
    /// The lanes whose turn it is, at most so many of those that are closed (in the order of their ids), and where to look
    /// on in each.
    fn next(&mut self, closed: &[i64], most: usize) -> Vec<(i64, Option<Place>)> {
        self.ends.retain(|lane, _| closed.binary_search(lane).is_ok());
        let (before, behind) = closed.split_at(closed.partition_point(|lane| *lane <= self.last));
        let turn: Vec<_> =
            behind.iter().chain(before).take(most).map(|lane| (*lane, self.ends.get(lane).copied())).collect();
        self.last = turn.last().map_or(self.last, |(lane, _)| *lane);
        turn
    }

    /// Takes note of what was seen of these lanes, at most `limit` rows of each.
    fn note(&mut self, lanes: &[(i64, Option<Place>)], rows: &[Waiting], limit: usize) {
        let mut seen = HashMap::<i64, (usize, Place)>::new();
        for row in rows {
            let (count, last) = seen.entry(row.lane).or_insert((0, row.place));
            *count += 1;
            *last = row.place;
        }
        for (lane, _) in lanes {
            match seen.get(lane) {
                Some((count, last)) if *count >= limit => self.ends.insert(*lane, *last),
                // A lane that was seen to its end is begun anew.
                _ => self.ends.remove(lane),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use uuid::Uuid;

    use super::*;

    fn row(lane: i64, n: u128) -> Waiting {
        let place =
            Place { due_at: DateTime::UNIX_EPOCH, message_id: Uuid::from_u128(n), recipient_id: Uuid::from_u128(n) };
        Waiting { lane, place, is_over: false }
    }

    fn ids(lanes: &[(i64, Option<Place>)]) -> Vec<i64> {
        lanes.iter().map(|(lane, _)| *lane).collect()
    }

    #[test]
    fn every_closed_lane_has_its_turn() {
        let (mut looked, closed) = (Looked::default(), [2, 3, 5, 7, 11]);
        let mut turn = || ids(&looked.next(&closed, 2));
        assert_eq!([turn(), turn(), turn(), turn()], [[2, 3], [5, 7], [11, 2], [3, 5]]);
        assert_eq!(ids(&looked.next(&closed, 9)), [7, 11, 2, 3, 5]);
        assert!(looked.next(&[], 9).is_empty());
    }

    #[test]
    fn a_lane_with_more_is_looked_at_where_the_last_look_ended_and_the_others_from_the_start() {
        let (mut looked, closed) = (Looked::default(), [1, 2, 3]);
        let turn = looked.next(&closed, 2);
        looked.note(&turn, &[row(1, 10), row(1, 11), row(2, 20)], 2);
        // What was not looked at meanwhile does not change what is known of the others.
        let turn = looked.next(&closed, 1);
        looked.note(&turn, &[row(3, 30), row(3, 31)], 2);
        assert_eq!(looked.next(&closed, 3), [(1, Some(row(1, 11).place)), (2, None), (3, Some(row(3, 31).place))]);
        looked.next(&[2, 3], 2);
        assert_eq!(looked.next(&closed, 3)[0], (1, None), "it was open in between");
    }
}
