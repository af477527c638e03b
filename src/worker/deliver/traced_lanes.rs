//! The lanes whose attempts are traced (`POST /v1/lanes/{id}/trace`), known to this process within two seconds of sending.
//! While there are none, an attempt costs one look at the clock and one at an empty set.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::db::lanes::traces;
use crate::db::{Db, DbError};

/// Age at which the lanes are loaded again.
const MAX_AGE: Duration = Duration::from_secs(2);

/// The lanes whose attempts are traced.
#[derive(Debug)]
pub(crate) struct TracedLanes {
    db: Db,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// `lanes.id`.
    lanes: HashSet<i64>,
    /// When they were last loaded, or a load started.
    loaded_at: Option<Instant>,
}

impl TracedLanes {
    pub(crate) fn new(db: Db) -> Self {
        Self { db, state: Mutex::default() }
    }

    /// Returns whether an attempt of this lane is traced, and counts it if so. A failure of the database means that it
    /// is not traced.
    pub(crate) async fn take_turn(self: &Arc<Self>, lane: Option<i64>) -> bool {
        let Some(lane) = lane else { return false };
        let load = self.state.lock().start_load(Instant::now());
        match load {
            Load::None => {}
            // Boxed, because these futures are part of every attempt.
            Load::First => drop(Box::pin(self.load()).await),
            // The attempt does not wait for it.
            Load::Again => drop(tokio::spawn({
                let lanes = self.clone();
                async move { lanes.load().await }
            })),
        }
        let is_traced = self.state.lock().lanes.contains(&lane);
        if !is_traced {
            return false;
        }
        let has_turn = Box::pin(traces::take_turn(&self.db, lane)).await.unwrap_or(false);
        if !has_turn {
            // Its trace is over, so its attempts no longer wait for the database.
            self.state.lock().lanes.remove(&lane);
        }
        has_turn
    }

    /// Gives a turn back, because nothing was attempted.
    pub(crate) async fn return_turn(&self, lane: i64) {
        // After a failure, one attempt less is traced.
        if traces::return_turn(&self.db, lane).await.unwrap_or(false) {
            self.state.lock().lanes.insert(lane);
        }
    }

    async fn load(&self) -> Result<(), DbError> {
        self.state.lock().lanes = traces::all(&self.db).await?;
        Ok(())
    }
}

impl State {
    fn start_load(&mut self, now: Instant) -> Load {
        let load = match self.loaded_at {
            Some(at) if now < at + MAX_AGE => return Load::None,
            Some(at) if now < at + 2 * MAX_AGE => Load::Again,
            _ => Load::First,
        };
        self.loaded_at = Some(now);
        load
    }
}

/// Whether to load the lanes.
#[derive(Debug, PartialEq, Eq)]
enum Load {
    /// They are up to date.
    None,
    /// They are unknown, or were loaded so long ago that a trace may have begun: the attempt waits for them.
    First,
    /// They were up to date until now.
    Again,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempt_after_a_pause_waits_for_the_lanes() {
        let (mut state, start) = (State::default(), Instant::now());
        let mut load_at = |ms: u64| state.start_load(start + Duration::from_millis(ms));
        assert_eq!([0, 1_999].map(&mut load_at), [Load::First, Load::None]);
        assert_eq!([2_000, 3_999, 4_001].map(&mut load_at), [Load::Again, Load::None, Load::Again]);
        assert_eq!([8_100, 8_200, 60_000].map(&mut load_at), [Load::First, Load::None, Load::First]);
    }
}
