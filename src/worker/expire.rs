//! Ends what waits behind a pause, a block or a throttle beyond its time. Only lanes that are closed are looked at: what
//! waits in an open one is claimed, and expires there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Parts, deliver};
use crate::db::overdue::{self, Place};
use crate::db::{DbError, queue::Claimed};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(30);
/// Rows ended together.
const BATCH: usize = 256;
/// Rows looked at in one go; of a lane with more, the next look goes on where this one ended.
const PAGE: usize = 10_000;
/// Of one lane at least.
const LEAST: usize = 16;

/// Where the last look at each lane ended.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<HashMap<i64, Place>>);

pub(super) async fn run(parts: Arc<Parts>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = once(&parts).await {
            tracing::debug!(%error, "could not look for recipients whose time has run out");
        }
    }
}

pub(super) async fn once(parts: &Arc<Parts>) -> Result<(), DbError> {
    let now = parts.clock.now();
    let lanes = overdue::closed(&parts.db, now).await?;
    if lanes.is_empty() {
        return Ok(());
    }
    loop {
        let limit = i64::try_from(BATCH).unwrap_or(i64::MAX);
        let places = overdue::expired(&parts.db, &lanes, limit, now).await?;
        // Those that another worker has taken meanwhile are seen again: enough is when none could be had.
        if end(parts, &places).await? == 0 {
            break;
        }
    }
    let over = page(parts, &lanes).await?;
    for places in over.chunks(BATCH) {
        end(parts, places).await?;
    }
    Ok(())
}

/// Looks on through the lanes for rows whose retry window has closed.
async fn page(parts: &Parts, lanes: &[i64]) -> Result<Vec<Place>, DbError> {
    let from: Vec<(i64, Option<Place>)> =
        parts.places.of(|places| lanes.iter().map(|lane| (*lane, places.get(lane).copied())).collect());
    let limit = (PAGE / lanes.len()).max(LEAST);
    let window = parts.settings.policy.window;
    let rows = overdue::page(
        &parts.db,
        &from[..from.len().min(PAGE / LEAST)],
        i64::try_from(limit).unwrap_or(i64::MAX),
        window,
        parts.clock.now(),
    )
    .await?;
    let mut seen = HashMap::<i64, (usize, Place)>::new();
    for row in &rows {
        let (count, last) = seen.entry(row.lane).or_insert((0, row.place));
        *count += 1;
        *last = row.place;
    }
    parts.places.of(|places| {
        // A lane that was seen to its end is begun anew.
        *places =
            seen.iter().filter(|(_, (count, _))| *count >= limit).map(|(lane, (_, last))| (*lane, *last)).collect();
    });
    Ok(rows.into_iter().filter(|row| row.is_over).map(|row| row.place).collect())
}

/// Takes them in hand, as a claim does, and completes them. Answers how many that were.
async fn end(parts: &Arc<Parts>, places: &[Place]) -> Result<usize, DbError> {
    if places.is_empty() {
        return Ok(0);
    }
    let Some(worker) = parts.identity.current() else { return Ok(0) };
    let leased = overdue::lease(&parts.db, worker, places).await.inspect_err(|_| parts.suspect.notify_one())?;
    let taken: Vec<Claimed> = parts.hands.take(leased, &[]);
    let count = taken.len();
    if count > 0 {
        deliver::expire(parts, taken);
    }
    Ok(count)
}

impl Places {
    fn of<T>(&self, look: impl FnOnce(&mut HashMap<i64, Place>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
