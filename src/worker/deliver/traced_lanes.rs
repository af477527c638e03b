//! The lanes whose attempts are traced (`POST /v1/lanes/{id}/trace`), known to this process within two seconds. While
//! there are none, an attempt costs one look at the clock and one at an empty set.

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
        match self.start_load(Instant::now()) {
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
        is_traced && Box::pin(traces::take_turn(&self.db, lane)).await.unwrap_or(false)
    }

    fn start_load(&self, now: Instant) -> Load {
        let mut state = self.state.lock();
        let load = match state.loaded_at {
            Some(loaded_at) if now < loaded_at + MAX_AGE => return Load::None,
            Some(_) => Load::Again,
            None => Load::First,
        };
        state.loaded_at = Some(now);
        load
    }

    async fn load(&self) -> Result<(), DbError> {
        self.state.lock().lanes = traces::all(&self.db).await?;
        Ok(())
    }
}

/// Whether to load the lanes.
enum Load {
    None,
    First,
    Again,
}
